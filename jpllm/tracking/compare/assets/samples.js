// What the runs wrote for the same prompts, beside each other, and each over its training.
function samplesOf(prompts, runs) {
  const longest = Math.max(1, ...prompts.flatMap((prompt) => prompt.texts.map((texts) => texts.length)));
  const shown = []; // one function for each card: show the text at this share of the training
  const blocks = prompts.map((prompt) =>
    el(
      "div",
      { class: "prompt" },
      el("h3", { lang: "ja" }, prompt.prompt),
      prompt.wanted ? el("p", { class: "wanted", lang: "ja" }, `wanted: ${prompt.wanted}`) : null,
      el("div", { class: "texts" }, prompt.texts.map((texts, index) => (texts.length ? cardOf(texts, prompt.num_times[index], runs[index], index, shown) : null))),
    ),
  );
  for (const show of shown) show(1);
  if (longest < 2) return blocks;
  const value = el("output", {}, "end");
  const slider = el("input", { type: "range", min: 0, max: longest - 1, value: longest - 1, step: 1, class: "when" });
  slider.addEventListener("input", () => {
    const share = slider.value / (longest - 1);
    value.textContent = share === 1 ? "end" : share === 0 ? "start" : `${Math.round(100 * share)} %`;
    for (const show of shown) show(share);
  });
  return [el("div", { class: "tools" }, el("label", {}, "of the training", slider, value)), ...blocks];
}

function cardOf(texts, numTimes, run, index, shown) {
  const where = el("span");
  const text = el("p", { lang: "ja" });
  const card = el("article", { class: "text", "data-run": index, style: { "--own": colourOf(index) } });
  card.append(el("header", {}, el("b", {}, run.name), where), text);
  shown.push((share) => {
    const sample = texts[Math.round(share * (texts.length - 1))];
    where.textContent = placeOf(sample);
    fill(text, sample);
  });
  if (texts.length > 1) card.append(historyOf(texts, numTimes));
  return card;
}

function historyOf(texts, numTimes) {
  const list = el("ol", { lang: "ja" });
  const times = numTimes > texts.length ? `${texts.length} of ${numTimes.toLocaleString("en")} times` : `${texts.length} times`;
  const details = el("details", {}, el("summary", {}, `${times} during the training`), list);
  details.addEventListener("toggle", () => {
    if (list.children.length) return;
    for (const sample of texts) {
      const text = el("div");
      fill(text, sample);
      list.append(el("li", {}, el("span", {}, placeOf(sample)), text));
    }
  });
  return details;
}

function fill(element, sample) {
  element.textContent = sample.text.trim() || "(empty)";
  if (sample.ended === false) element.append(" ", el("span", { class: "tag", title: "cut at the greatest length" }, "cut"));
}

function placeOf(sample) {
  if (sample.step === null) return "";
  const tokens = sample.tokens === null ? "" : `, ${short(sample.tokens)} tokens`;
  return `step ${sample.step.toLocaleString("en")}${tokens}`;
}
