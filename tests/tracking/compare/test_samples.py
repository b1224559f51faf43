from jpllm.tracking.compare.samples import MAX_PROMPTS, Prompt, Sample, prompts_of
from jpllm.tracking.runs import Run
from tests.tracking.run_folders import place, samples


def run(rows):
    return Run("r", "finished", samples=rows)


def test_the_same_prompts_of_all_runs():
    found, note = prompts_of([run(samples("a", "b", prompt="p")), run(samples("c", prompt="p")), run([])])
    texts = [[Sample("a", 0, 0), Sample("b", 2, 2000)], [Sample("c", 0, 0)], []]
    assert found == [Prompt("p", texts, num_times=[2, 1, 0])]
    assert note == ""


def test_prompts_that_more_runs_know_come_first():
    first = samples("1", prompt="own") + samples("2", prompt="shared")
    found, _ = prompts_of([run(first), run(samples("3", prompt="shared"))])
    assert [prompt.prompt for prompt in found] == ["shared", "own"]


def test_answers_know_what_was_wanted_and_whether_they_ended():
    rows = [{**place(1), "prompt": "p", "text": "t", "wanted": "w", "ended": False}]
    assert prompts_of([run(rows)])[0] == [Prompt("p", [[Sample("t", 1, 1000, False)]], "w", [1])]


def test_a_step_that_was_sampled_twice_counts_once():
    rows = samples("first", prompt="p") + samples("again", prompt="p")
    assert prompts_of([run(rows)])[0][0].texts == [[Sample("again", 0, 0)]]


def test_many_evaluations_are_thinned_to_the_first_the_last_and_those_between():
    ((prompt,), _) = prompts_of([run(samples(*(str(index) for index in range(191))))])
    texts = [sample.text for sample in prompt.texts[0]]
    assert texts == [str(10 * index) for index in range(20)]
    assert prompt.num_times == [191]  # so that the page can say how many it leaves out


def test_long_texts_are_cut_and_many_prompts_counted():
    rows = [{**place(step), "prompt": f"p{index:02d}", "text": "あ" * 3000} for index in range(40) for step in (0, 1)]
    found, note = prompts_of([run(rows)])
    assert [prompt.prompt for prompt in found] == [f"p{index:02d}" for index in range(MAX_PROMPTS)]
    assert note == "12 of 40 prompts"
    assert [sample.text for sample in found[0].texts[0]] == ["あ" * 500 + "…", "あ" * 2000 + "…"]


def test_a_page_of_many_runs_stays_small():
    rows = [{**place(step), "prompt": f"p{index}", "text": "あ" * 3000} for index in range(12) for step in range(100)]
    found, _ = prompts_of([run(rows)] * 20)
    sizes = [len(sample.text.encode()) for prompt in found for texts in prompt.texts for sample in texts]
    assert sum(sizes) < 4_000_000
