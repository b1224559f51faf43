"""The page of `jpllm compare` as a person meets it: in a browser without a window, and without a network."""

import re
import shutil

import pytest

from jpllm import cli
from tests.tracking.run_folders import PROMPT, RESULTS, place, rows, samples, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "\"><img src=x onerror=hacked=1> & 😀 'q' <!-- ..%2f"
SCRIPT = "</script><script>hacked = 1</script> <b>太字</b> /home/alice/x"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    browsers = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: the extra web_test")
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt install chromium")
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser, tmp_path):
    """A function that compares runs and opens the page. Console errors and any request but the file fail the test."""
    problems, contexts = [], []

    def open_it(names, viewport=DESKTOP, scheme="light", output="report.html"):
        file = tmp_path / output
        assert cli.main(["compare", *(str(tmp_path / name) for name in names), "--output", str(file)]) == 0
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: sent.url == file.as_uri() or problems.append(sent.url))
        page.route(re.compile("^(?!file:)"), lambda route: route.abort())
        page.goto(file.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


def matrix(value, **more):
    groups = {"old": {"before": 0.943, "after": value}, "new": {"before": 2.1392, "after": 1.6884}}
    shares = (("wiki", 0.3), ("c4", 0.7))
    mixture = [{"source": s, "requested_share": r, "achieved_share": r, "tokens": 1000, "epochs": 1} for s, r in shares]
    return RESULTS | {"groups": groups, "mixture": mixture} | more


def scaled(factor, *losses):
    """The rows of a run whose evaluations are so many times those of the others."""
    return [{key: v * factor if key.startswith("eval_") else v for key, v in row.items()} for row in rows(losses)]


def three_runs(folder):
    """From scratch, continued and unfinished; names to compare."""
    score = {"task": "jnli", "style": "base", "num_fewshot": 3, "metric": "acc", "n": 200, "value": 0.41}
    evaluation = {"jglue": [score | {"chance": 1 / 3, "standard_error": 0.03}]}
    write_run(folder / "scratch", results=matrix(0.9489), evaluation=evaluation)
    write_run(
        folder / "continued", settings={"seed": 7}, results=matrix(0.9201), metrics=scaled(0.8, 7.0, 3.0, 2.0, 1.5)
    )
    texts = [*samples("い", "ろ", "は"), {**place(4), "prompt": "一つだけ", "text": "に", "ended": False}]
    write_run(folder / "begun", results=None, metrics=scaled(0.9, 6.0, 5.5), texts=texts)
    return ["scratch", "continued", "begun"]


def colours(page):
    """Of each run, as red, green and blue."""
    texts = page.locator("#legend .dot").evaluate_all("dots => dots.map(dot => getComputedStyle(dot).borderTopColor)")
    return [list(map(int, re.findall(r"\d+", text)[:3])) for text in texts]


def bring_into_view(page, prompt):
    """Samples out of sight are not laid out, and have no inner text."""
    prompt.scroll_into_view_if_needed()
    wait_for_frames(page)


def wait_for_frames(page):
    """Until what was asked for is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def num_pixels(page, metric, colour):
    """How many pixels of a chart have exactly this colour."""
    wait_for_frames(page)
    return page.locator(f'[data-metric="{metric}"] canvas').first.evaluate(
        """(canvas, [red, green, blue]) => {
             const copy = new OffscreenCanvas(canvas.width, canvas.height);
             const context = copy.getContext("2d", { willReadFrequently: true });
             context.drawImage(canvas, 0, 0);
             const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
             let count = 0;
             for (let at = 0; at < data.length; at += 4)
               count += data[at] === red && data[at + 1] === green && data[at + 2] === blue && data[at + 3] === 255;
             return count;
           }""",
        colour,
    )


def readout(page, metric, share):
    """The lines that are shown while the pointer is at this share of a chart's width."""
    plot = page.locator(f'[data-metric="{metric}"] .plot')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    left, right = box["x"] + 48, box["x"] + box["width"] - 10
    page.mouse.move(left + share * (right - left), box["y"] + box["height"] / 2)
    wait_for_frames(page)
    return plot.locator(".readout div").all_inner_texts()


def set_slider(page, selector, value):
    page.locator(selector).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )
    wait_for_frames(page)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_there(viewport, scheme, open_report, tmp_path):
    page = open_report([*three_runs(tmp_path), "gone"], viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    headings = ["Summary", "Curves", "Samples", "Settings that differ", "Learned and forgotten", "Training data"]
    assert page.locator("h2").all_inner_texts() == headings
    for metric in ("loss", "eval_loss", "eval_bits_per_byte"):
        assert [num_pixels(page, metric, colour) > 60 for colour in colours(page)] == [True] * 3
    summary = page.locator("#summary")
    assert summary.get_by_text("unfinished, step 2", exact=True).is_visible()
    row = summary.locator("tr", has=page.get_by_text("JNLI accuracy"))
    assert row.locator("td").all_inner_texts() == ["41.0 ± 3.0 %", "–", "–"]
    assert row.locator(".bar b").evaluate("mark => mark.style.left").startswith("33.33")
    remarks = page.locator(".remarks").inner_text()
    assert "scratch its evaluations may be of other weights" in remarks
    assert "gone not compared: no such folder" in remarks
    assert page.locator("#settings tbody td").all_inner_texts() == ["0", "7", "0"]
    assert page.locator("#forgetting tbody tr").first.locator("td").all_inner_texts() == [
        "0.9430 → 0.9489 (+0.0059)",
        "0.9430 → 0.9201 (-0.0229)",
        "–",
    ]
    assert page.locator("#mixture tbody th").all_inner_texts() == ["wiki", "c4"]
    bring_into_view(page, page.locator("#samples .prompt").first)
    texts = page.locator("#samples .prompt").first.locator(".text p")
    assert texts.all_inner_texts() == ["名前はまだ無い。", "名前はまだ無い。", "は"]
    assert all(text.is_visible() for text in texts.all())
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(247, 247, 245)" if scheme == "light" else "rgb(19, 21, 25)")


def test_curves_against_every_axis_with_their_numbers(open_report, tmp_path):
    page = open_report(three_runs(tmp_path))
    set_slider(page, ".smoothing", 0)
    assert readout(page, "loss", 1.0) == ["4000 tokens", "scratch\n2.500", "continued\n1.500"]
    assert readout(page, "loss", 0.0) == ["1000 tokens", "scratch\n8.000", "continued\n7.000", "begun\n6.000"]
    for axis, where in (("steps", "4 steps"), ("epochs", "0.5 epochs"), ("hours", "0.1333 minutes")):
        page.get_by_role("button", name=axis, exact=True).click()
        assert readout(page, "loss", 1.0) == [where, "scratch\n2.500", "continued\n1.500"]
    set_slider(page, ".smoothing", 0.99)
    fade = (0.99**0.5) ** (1000 / 4)  # a quarter of the axis between two rows
    weights = [fade**3, fade**2, fade, 1]
    expected = sum(w * loss for w, loss in zip(weights, (8.0, 4.0, 3.0, 2.5), strict=True)) / sum(weights)
    assert readout(page, "loss", 1.0)[1] == f"scratch\n{expected:.3f}\n2.500"
    assert readout(page, "eval_loss", 1.0)[1:] == ["scratch\n2.000", "continued\n1.600"]  # these are not smoothed


def test_smoothing_forgets_by_the_distance_on_the_axis(open_report, tmp_path):
    """Steps 1 and 2 of 1 … 101: at 0.25 each thousandth of the axis keeps half of the weight."""
    metrics = [{**place(step), "loss": loss} for step, loss in ((1, 4.0), (1.1, 1.0), (101, 1.0))]
    write_run(tmp_path / "a", metrics=metrics)
    page = open_report(["a"])
    set_slider(page, ".smoothing", 0.25)
    page.get_by_role("button", name="steps", exact=True).click()
    assert readout(page, "loss", 0.001)[1] == "a\n2.000\n1.000"  # (4 · 0.5 + 1) ÷ (0.5 + 1)


def test_zoom_logarithm_and_more_metrics(open_report, tmp_path):
    page = open_report(three_runs(tmp_path))
    set_slider(page, ".smoothing", 0)
    plot = page.locator('[data-metric="loss"] .plot')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    left, width, y = box["x"] + 48, box["width"] - 58, box["y"] + 100
    page.mouse.move(left + width / 3, y)
    page.mouse.down()
    page.mouse.move(left + width * 2 / 3, y)
    page.mouse.up()
    where = readout(page, "eval_loss", 0.5)[0]  # all charts show the same range
    assert abs(float(where.split()[0]) - 2500) < 30
    page.get_by_role("button", name="whole range").click()
    assert readout(page, "loss", 1.0)[0] == "4000 tokens"
    before = page.locator('[data-metric="loss"] canvas').first.evaluate("canvas => canvas.toDataURL()")
    page.get_by_label("logarithmic").check()
    assert page.locator('[data-metric="loss"] canvas').first.evaluate("canvas => canvas.toDataURL()") != before
    assert page.locator('[data-metric="learning_rate"]').count() == 0
    page.get_by_role("button", name="learning rate").click()
    assert num_pixels(page, "learning_rate", colours(page)[2]) > 60
    page.get_by_role("button", name="learning rate").click()
    assert page.locator('[data-metric="learning_rate"]').count() == 0
    page.locator('[data-metric="loss"]').get_by_role("button").click()
    assert page.locator('[data-metric="loss"]').bounding_box()["width"] > 1000


def test_runs_can_be_hidden_everywhere(open_report, tmp_path):
    page = open_report(three_runs(tmp_path))
    own = colours(page)
    page.locator("#legend button").nth(0).click()
    assert [num_pixels(page, "loss", colour) > 60 for colour in own] == [False, True, True]
    bring_into_view(page, page.locator("#samples .prompt").first)
    assert page.locator("#samples .prompt").first.locator(".text:visible b").all_inner_texts() == ["continued", "begun"]
    heads = page.locator("#summary thead th.run:visible").all_inner_texts()
    assert [head.strip() for head in heads] == ["continued", "begun"]
    page.locator("#legend button").nth(2).dblclick()
    assert [num_pixels(page, "loss", colour) > 60 for colour in own] == [False, False, True]
    page.locator("#legend button").nth(2).dblclick()
    assert [num_pixels(page, "loss", colour) > 60 for colour in own] == [True, True, True]


def test_samples_over_the_training(open_report, tmp_path):
    page = open_report(three_runs(tmp_path))
    first = page.locator("#samples .prompt").first
    bring_into_view(page, first)
    assert first.locator("h3").inner_text() == PROMPT
    set_slider(page, ".when", 0)
    assert first.locator(".text p").all_inner_texts() == ["あ", "あ", "い"]
    set_slider(page, ".when", 1)
    assert first.locator(".text p").all_inner_texts()[2] == "ろ"
    assert first.locator(".text header span").all_inner_texts()[2] == "step 2, 2000 tokens"
    first.locator("summary").nth(2).click()
    first.locator("li").nth(2).wait_for()
    assert first.locator(".text").nth(2).locator("li div").all_inner_texts() == ["い", "ろ", "は"]
    other = page.locator("#samples .prompt").nth(1)
    bring_into_view(page, other)
    assert other.locator(".text p").all_inner_texts() == ["に cut"]


def test_the_page_says_how_many_texts_it_leaves_out(open_report, tmp_path):
    write_run(tmp_path / "a", texts=samples(*map(str, range(200))))
    write_run(tmp_path / "b", texts=samples("0", "1", "2"))
    page = open_report(["a", "b"])
    shown = page.locator("#samples summary").all_text_contents()
    assert shown == ["20 of 200 times during the training", "3 times during the training"]


def test_the_theme_can_be_chosen(open_report, tmp_path):
    page = open_report(three_runs(tmp_path))
    page.locator("button.theme").click()
    assert page.locator("button.theme").inner_text() == "theme: light"
    light = colours(page)
    page.locator("button.theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 25)"
    assert colours(page) != light
    assert [num_pixels(page, "loss", colour) > 60 for colour in colours(page)] == [True] * 3
    page.locator("button.theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(247, 247, 245)"


def test_hostile_texts_are_shown_as_texts(open_report, tmp_path):
    texts = [{**place(4), "prompt": SCRIPT, "text": f"{SCRIPT}\n{HOSTILE}"}]
    groups = {SCRIPT: {"before": 1.0, "after": 2.0}}
    mixture = [{"source": name, "requested_share": 0.5, "achieved_share": 0.5} for name in (SCRIPT, HOSTILE)]
    metrics = [*rows(), {**place(5), f"eval_{SCRIPT}": 1.0}]
    results = RESULTS | {"groups": groups, "mixture": mixture}
    write_run(tmp_path / HOSTILE, settings={"seed": SCRIPT}, texts=texts, results=results, metrics=metrics)
    write_run(tmp_path / "plain")
    page = open_report([HOSTILE, "plain", "<script>gone"])
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("main img, main script, main b b").count() == 0
    assert page.locator("#summary th.run").first.inner_text().strip() == HOSTILE
    assert page.locator("#legend .chip span").nth(1).text_content() == HOSTILE
    assert page.title() == f"{HOSTILE}, plain"
    prompt = page.locator("#samples .prompt", has=page.get_by_text(SCRIPT, exact=True))
    bring_into_view(page, prompt)
    assert prompt.locator("h3").inner_text() == SCRIPT
    assert prompt.locator(".text p").first.inner_text() == f"{SCRIPT}\n{HOSTILE}"
    assert page.locator("#settings tbody td").first.inner_text() == SCRIPT.replace("/home/alice", "~")
    assert page.locator(".remarks").inner_text() == "<script>gone not compared: no such folder"


def test_many_runs_stand_below_each_other_and_can_be_sorted(open_report, tmp_path):
    names = [f"run-{index}" for index in range(7)]
    for index, name in enumerate(names):
        results = None if index == 3 else RESULTS | {"tokens_per_second": (index * 5) % 7}
        write_run(tmp_path / name, results=results, metrics=[place(0)] if index == 3 else None)
    page = open_report(names)
    heads = page.locator("#summary tbody th")
    assert [text.strip() for text in heads.all_inner_texts()] == names
    page.get_by_role("button", name="tokens per second").click()
    assert [text.strip()[-1] for text in heads.all_inner_texts()] == ["0", "6", "2", "5", "1", "4", "3"]
    page.get_by_role("button", name="tokens per second").click()
    assert [text.strip()[-1] for text in heads.all_inner_texts()] == ["4", "1", "5", "2", "6", "0", "3"]


def test_models_without_any_record(open_report, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    page = open_report(["m"])
    assert page.locator("h2").all_inner_texts() == ["Summary"]
    assert "a model without a record of its training" in page.locator(".remarks").inner_text()
