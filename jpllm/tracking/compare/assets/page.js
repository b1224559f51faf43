// The page from its data.
const data = JSON.parse(document.getElementById("data").textContent);

function section(id, title, ...content) {
  return el("section", { id }, el("h2", {}, title), content);
}

function tablesOf(name, kind) {
  const [first, ...others] = data.tables[name].map((table, place) => {
    const made = tableOf(table, data.runs, kind);
    if (table.is_secondary) return el("details", {}, el("summary", {}, `${table.title} (${table.rows.length})`), made);
    return place ? el("div", {}, el("h3", {}, table.title), made) : made;
  });
  return [first, others.length ? el("div", { class: "beside" }, others) : null];
}

function remarksOf() {
  const found = data.runs.flatMap((run) => run.remarks.map((remark) => [run.name, remark]));
  found.push(...data.refused.map((refused) => [refused.name, `not compared: ${refused.reason}`]));
  return found.length ? el("ul", { class: "remarks" }, found.map(([name, text]) => el("li", {}, el("b", {}, name), " ", text))) : null;
}

function themeButton(redraw) {
  const names = ["automatic", "light", "dark"];
  let chosen = 0;
  try {
    chosen = Math.max(0, names.indexOf(localStorage.getItem("jpllm-theme")));
  } catch {
    // a browser that keeps nothing
  }
  const made = el("button", { type: "button", class: "theme" });
  const apply = () => {
    if (chosen) document.documentElement.dataset.theme = names[chosen];
    else delete document.documentElement.dataset.theme;
    made.textContent = `theme: ${names[chosen]}`;
    redraw();
  };
  made.addEventListener("click", () => {
    chosen = (chosen + 1) % names.length;
    try {
      localStorage.setItem("jpllm-theme", names[chosen]);
    } catch {
      // nothing is kept
    }
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  return { made, apply };
}

function build() {
  const hidden = new Set();
  const hasCurves = data.metrics.length > 0;
  const curves = hasCurves ? curvesOf(data.runs, data.metrics, hidden) : { elements: [], redraw() {} };
  const samples = [data.asked, data.recorded].flatMap((found, place) => {
    if (!found.prompts.length) return [];
    const title = place ? (data.asked.prompts.length ? "During the training" : null) : "Asked for this page";
    const note = found.note ? el("p", { class: "note" }, found.note) : null;
    return [title ? el("h3", {}, title) : null, note, ...samplesOf(found.prompts, data.runs)];
  });
  const sections = [
    section("summary", "Summary", tablesOf("summary", "numbers"), remarksOf()),
    hasCurves ? section("curves", "Curves", curves.elements) : null,
    samples.length ? section("samples", "Samples", samples) : null,
    data.tables.settings.length ? section("settings", "Settings that differ", tablesOf("settings", "settings")) : null,
    data.tables.forgetting.length ? section("forgetting", "Learned and forgotten", tablesOf("forgetting", "numbers")) : null,
    data.tables.mixture.length ? section("mixture", "Training data", tablesOf("mixture", "numbers")) : null,
    data.tables.environment.length ? section("machines", "Machines and versions", tablesOf("environment", "settings")) : null,
  ].filter(Boolean);
  document.getElementById("main").replaceChildren(...sections);

  const theme = themeButton(curves.redraw);
  const links = sections.map((own) => el("a", { href: `#${own.id}` }, own.firstChild.textContent));
  document.getElementById("head").append(el("h1", {}, data.runs.length === 1 ? data.title : `${data.runs.length} runs compared`), el("span", { class: "made" }, data.made), el("nav", {}, links, theme.made));
  document.getElementById("legend").append(...runChips(hidden, curves.redraw));
  theme.apply();
}

// A click shows or hides a run everywhere; a double click leaves it alone, or brings all back.
function runChips(hidden, redraw) {
  const apply = () => {
    chips.forEach((chip, index) => {
      chip.setAttribute("aria-pressed", String(!hidden.has(index)));
      for (const own of document.querySelectorAll(`[data-run="${index}"]`)) own.hidden = hidden.has(index);
    });
    redraw();
  };
  const toggle = (index) => {
    if (!hidden.delete(index)) hidden.add(index);
    apply();
  };
  const single = (index) => {
    const others = chips.map((_, other) => other).filter((other) => other !== index);
    const isAlone = others.every((other) => hidden.has(other));
    hidden.clear();
    if (!isAlone) for (const other of others) hidden.add(other);
    apply();
  };
  const chips = data.runs.map((run, index) => {
    const properties = { class: "chip", title: `${run.name}: click to hide, double click for it alone` };
    const chip = button("", true, () => toggle(index), properties);
    chip.addEventListener("dblclick", () => single(index));
    chip.append(dot(index), el("span", {}, run.name));
    return chip;
  });
  return chips;
}

build();
