import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_predictions import counted, prediction, texts

from rolltune.evaluation.charts import Curve
from rolltune.evaluation.decision import Decision
from rolltune.evaluation.figures import measured
from rolltune.evaluation.leaderboard import Entry, Status, rank
from rolltune.evaluation.metrics import Threshold, measure
from rolltune.evaluation.report import RunSummary, html, write_report
from rolltune.evaluation.report_pictures import pictures
from rolltune.evaluation.report_tables import SplitResult, confusions

EVIL = '<script>alert("x")</script>&amp;'


class Page(HTMLParser):
    """The text, the tags, and every address of a page; fails where tags do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.addresses, self.words, self.bare = [], set(), [], [], []
        self.feed(page)
        assert not self.open
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "srcset", "href")]
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data + " ")


def a_run(**more) -> RunSummary:
    before, after = measure(counted(0, 5, 0, 5), "yes"), measure(counted(4, 5, 0, 1), "yes")
    chosen = Entry(
        1, 11, 0.003, valid=after, train=measure(counted(40, 44, 1, 1), "yes"), prediction=counted(4, 5, 0, 1)
    )
    second = Entry(2, 12, 0.001, valid=measure(counted(3, 5, 0, 2), "yes"), prediction=counted(3, 5, 0, 2))
    third = Entry(4, 14, 0.01, valid=measure(counted(2, 5, 0, 3), "yes"), prediction=counted(2, 5, 0, 3))
    dead = Entry(3, 13, 0.3, Status("died", 41, "loss is not a number"))
    given = {
        "title": "best-set1",
        "stage": "(1st trained)",
        "prompt": "is it an advertisement?",
        "answers": ("yes", "no"),
        "base": {"base model": "paligemma-3b", "base hash": "sha256 12ab"},
        "recipe": {"rate": 0.003, "steps": 256},
        "command": "./03-do_learn.py -d set1",
        "splits": [SplitResult("./dataset/set1/valid.jsonl", "valid", before, after)],
        "curves": [Curve(1, [32, 64], [0.7, 0.3417])],
        "leaderboard": rank([chosen, second, third, dead]),
        "pictures": pictures(counted(4, 5, 0, 1), {}, "valid"),
        "warnings": ["the base was given in f16"],
    }
    return RunSummary(**{**given, **more})


def test_every_figure_is_there():
    text = Page(html(a_run())).text
    assert "Right on 9 of 10 on pictures it was not trained on; before training on 5." in text
    assert "anywhere from 0.60 to 0.98" in text
    for part in (
        "best-set1 (1st trained)",
        "0.5 → 0.9",  # accuracy
        "undefined → 1.0",  # precision
        "before training: precision undefined, no picture was predicted yes",
        "0.0 → 0.8889",  # F-measure
        "after training: 1 of 10 wrong",
        "is it an advertisement?",
        "paligemma-3b",
        "sha256 12ab",
        '"steps": 256',
        "./03-do_learn.py -d set1",
        "the base was given in f16",
        "the best of 3 cannot be told from the second",
        "roll 3 died at step 41: loss is not a number",
        "no instead of yes",
    ):
        assert part in text, part
    for figure in ("0.003", "11", "0.8889", "0.9756", "0.75", "0.55", "0.98"):  # seeds, rates, figures, intervals
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", text), figure


def test_the_counts_stand_in_their_places():
    text = Page(html(a_run(leaderboard=None, pictures=(), warnings=()))).text
    assert "right answer ↓ predicted → yes no yes 4 1 no 0 5" in text.replace("\xa0", " ").replace("  ", " ")
    assert "in the data predicted before training predicted after training no 5 10 6 yes 5 0 4" in text


def test_nothing_is_loaded_and_nothing_runs():
    page = Page(html(a_run()))
    assert "script" not in page.tags and "link" not in page.tags
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)


def test_text_from_data_stays_text():
    answers = (EVIL, "no")
    rows = prediction([EVIL, "no"], ["no", "no"], answers)._replace(ids=(EVIL, "b"))
    metrics = measure(rows, EVIL)
    entry = Entry(0, 1, 0.1, Status(), None, metrics, rows)
    dead = Entry(1, 1, 0.1, Status("died", 1, EVIL))
    run = a_run(
        title=EVIL,
        stage=EVIL,
        prompt=EVIL,
        answers=answers,
        positive=EVIL,
        base={EVIL: EVIL},
        recipe={EVIL: EVIL},
        command=EVIL,
        roll_file=EVIL,
        facts={EVIL: EVIL},
        splits=[SplitResult(EVIL, "valid", metrics, metrics)],
        leaderboard=rank([entry, dead]),
        pictures=pictures(rows, {}, EVIL, {EVIL: EVIL}),
        warnings=[EVIL],
    )
    written = html(run)
    assert "<script" not in written
    page = Page(written)
    assert page.text.count(EVIL) >= 20  # shown as it is, the &amp; too


def test_many_answers_list_the_commonest_confusions_and_every_answer():
    answers = tuple(f"leaf {i}" for i in range(15))
    right = [answers[i % 15] for i in range(30)]
    chosen = [answers[3] if answer == answers[2] else answer for answer in right]
    metrics = measure(prediction(right, chosen, answers), None)
    board = rank([Entry(0, 1, 0.1, valid=metrics)])
    text = Page(
        html(RunSummary("plants", splits=[SplitResult("valid", "valid", None, metrics)], leaderboard=board))
    ).text
    assert "pictures right answer predicted 2 leaf 2 leaf 3" in text
    assert "leaf 3 2 4 2 0.5 0.15 to 0.85 1.0 0.34 to 1.00 0.6667 0.26 to 0.92" in text
    assert "means over the answers" in text


def test_every_answer_has_its_row_and_column_of_confusions():
    names = tuple(f"leaf {place:02}" for place in range(27))
    right = [names[place % 27] for place in range(81)]
    chosen = [names[3] if answer == names[2] else answer for answer in right]
    metrics = measure(prediction(right, chosen, names), None)
    table = confusions(SplitResult("valid", "valid", metrics, metrics), whole=True)
    (grid,) = re.findall(r'<table class="confusion.*?</table>', table)
    assert grid.count("<tr>") == 28 and grid.count("<td") == 27 * 27
    assert [re.search(r">(leaf \d+)<", row)[1] for row in grid.split("<tr>")[2:]] == list(names)
    assert "pictures</th>" in table  # the commonest ones beside it
    alone = confusions(SplitResult("valid", "valid", metrics, metrics))
    assert "confusion" not in alone and "pictures</th>" in alone
    many = tuple(map(str, range(50)))
    metrics = measure(prediction(list(many), list(many), many), None)
    assert 'class="confusion' not in confusions(SplitResult("valid", "valid", None, metrics), whole=True)


def test_each_cell_of_a_grid_is_shaded_by_its_share_of_the_row():
    def grid(right, chosen, answers):
        metrics = measure(prediction(list(right), list(chosen), tuple(answers)), "b" if len(answers) == 2 else None)
        (found,) = re.findall(r'<table class="confusion.*?</table>', confusions(SplitResult("v", "v", None, metrics)))
        return found

    two = grid("aaab", "aabb", "ab")
    shades = re.findall(r"<td(.*?)>(\d*)</td>", two)
    tone = lambda name, share: f' style="background: rgb(var(--{name}) / {0.08 + 0.425 * share:.2f})"'
    assert shades == [(tone("good", 2 / 3), "2"), (tone("bad", 1 / 3), "1"), ("", "0"), (tone("good", 1), "1")]
    flat, turned = grid("abcd", "abcd", "abcd"), grid("abcde", "abcde", "abcde")  # four names stand flat, five on end
    assert "upright" not in two + flat and turned.count("upright") == 5
    assert flat.count(">0</td>") == 12 and ">0</td>" not in turned and " many" in turned


def test_the_top_says_when_and_what_was_asked_and_what_was_wrong_before():
    text = Page(html(a_run(date="2025-02-28 16:05"))).text
    head = text[: text.index("Read this first")]
    assert "2025-02-28 16:05" in head and "Asked: is it an advertisement?" in head
    assert "wrong 1 of 10 before: 5 of 10" in head
    place = Page(html(a_run(date="2025-02-28", roll_file="./checkpoints/best.npz"))).text
    assert "2025-02-28, saved as ./checkpoints/best.npz" in place.replace(" ,", ",") and "saved as" not in text
    long = Page(html(a_run(prompt="x" * 500))).text
    assert f"Asked: {'x' * 400}..." in long and "x" * 500 in long  # all of it below


def test_a_command_breaks_between_its_words():
    assert "<span>./03-do_learn.py</span> <span>-d</span> <span>set1</span>" in html(a_run())


def test_an_answer_that_swallows_all_others_is_warned_of():
    same = measure(counted(0, 5, 0, 5), "yes")
    run = RunSummary("x", splits=[SplitResult("valid.jsonl", "valid", None, same)])
    assert "valid.jsonl: every picture gets the same answer, 'no'" in Page(html(run)).text


@pytest.mark.parametrize("role", ["test", "valid", "all", "train"])
def test_the_lead_says_what_the_figure_is_worth(role):
    metrics = measure(counted(5, 5, 0, 0), "yes")
    text = Page(html(RunSummary("x", splits=[SplitResult("data", role, None, metrics)]))).text
    words = {
        "test": "neither training nor choosing has seen",
        "valid": "it was not trained on",
        "all": "on all pictures, those it was trained on among them",
        "train": "says nothing about new ones",
    }
    assert words[role] in text


def test_no_name_or_answer_steers_the_page():
    text = html(RunSummary("a\u202eb", prompt="c\x1b[2J", answers=("d\u2066", "<b>"), splits=[]))
    assert not set("\u202e\x1b\u2066") & set(text) and "&lt;b&gt;" in text and r"a\u202eb" in text


def test_pictures_that_an_earlier_pass_learned_from_are_not_called_untouched():
    metrics = measure(counted(5, 5, 0, 0), "yes")
    text = Page(html(RunSummary("x", splits=[SplitResult("data", "valid", None, metrics, learned=7)]))).text
    assert "of which 7 were learned from" in text and "not trained on" not in text


def test_an_empty_summary_is_a_page_and_it_is_written_whole(tmp_path):
    write_report(tmp_path / "reports" / "x.html", RunSummary("only a title"))
    page = Page((tmp_path / "reports" / "x.html").read_text(encoding="utf-8"))
    assert page.text == "only a title only a title"
    assert os.listdir(tmp_path / "reports") == ["x.html"]


def test_written_answers_have_a_page_of_their_own_figures():
    right = [("12 May", "May 12"), ("<b>cat</b>",), ("dog",)]
    written = texts(["12 may", "cat", "a very long answer"], right, [0.5, 1.0, 3.0])
    before, after = measured(texts(None, right, [4, 4, 5])), measured(written)
    entries = [Entry(n, n, 0.01 * (n + 1), valid=after, prediction=written) for n in range(3)]
    run = RunSummary(
        "docs",
        splits=[SplitResult("valid.jsonl", "valid", before, after)],
        leaderboard=rank(entries, "log-loss"),
        pictures=pictures(written, {}, "valid"),
    )
    page = html(run)
    text = Page(page).text
    for part in (
        "Right on 1 of 3 on pictures it was not trained on. The true rate",
        "4.3333 → 1.5",
        "undefined → 0.3333",
        "before training: ANLS undefined, nothing was written",
        "What was written most often: valid.jsonl",
        "'a very long answer' instead of 'dog'",
        "'12 may' ✓",
        "Ranked by log-loss",
        "always the commonest answer: 0.3333",
    ):
        assert part in text, part
    assert 'class="range"' not in page and 'class="range"' in html(replace(run, leaderboard=rank(entries, "anls")))
    assert "What was taken for what" not in text and "<b>cat" not in page
    mute = Page(
        html(RunSummary("x", splits=[SplitResult("valid.jsonl", "valid", measured(texts(None, right)), before)]))
    )
    assert "Log-loss 4.3333 on pictures it was not trained on; before training 1.0." in mute.text


def test_probabilities_are_judged_and_a_threshold_is_shown_beside_the_plain_answers():
    scored = counted(3, 5, 1, 1)
    made = Decision(1.0, Threshold("yes", 0.95), ("chosen for the test",))
    result = SplitResult("test.jsonl", "test", None, measure(made.apply(scored), "yes"))
    run = RunSummary("ads", splits=[result], scored=made.apply(scored), scored_split="test.jsonl", decision=made)
    page = html(run)
    text = Page(page).text
    assert "How an answer is decided: test.jsonl 'yes' is given from a probability of 0.9500 on; chosen for the" in text
    assert "by the likeliest answer 0.8 0.49 to 0.94" in text and "as this roll decides 0.6 " in text
    assert "average precision 0.6625 (4 of 10 are &#x27;yes&#x27;)" in page
    assert "0.8 to 0.9: 8 of 10 right" in page and "Expected calibration error 0.1 on 10 pictures" in text
    alone = html(RunSummary("ads", splits=[result], scored=counted(0, 5, 1, 0)))
    assert "Precision and recall" not in alone and "How an answer is decided" not in alone
