"""Golden sets are read from whatever form people keep, and say where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from monitors.golden.files import inspect_golden, read_golden
from monitors.golden.golden_set import GoldenQuery
from monitors.golden.native import write_native
from pipelines.cli import app
from pipelines.core.errors import ExitCode, SettingsError

NATIVE = """\
# Owner: the support team.
version: 1
queries:
  - id: refund-late
    text: can I return a parcel after thirty days
    judged:
      kb/42: 2   # the policy itself
      kb/91: 0
  - id: no
    text: "yes"
    judged: {1: 1, 1e5: 3, null: 1}
  - id: later
    text: nobody has judged this one
"""


def native(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "golden.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def folder(tmp_path: Path, queries: str, qrels: str, names=("queries.jsonl", "qrels.tsv")) -> Path:
    for name, text in zip(names, (queries, qrels), strict=True):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_our_format(tmp_path):
    """Ids are text as they stand; comments are allowed; what nobody has judged is kept apart."""
    golden = read_golden(native(tmp_path, NATIVE))

    assert [q.id for q in golden.queries] == ["refund-late", "no", "later"]
    assert golden.queries[0].judged == {"kb/42": 2, "kb/91": 0}
    assert golden.queries[0].relevant == ["kb/42"]
    assert golden.queries[1].text == "yes"
    assert [q.line for q in golden.queries] == [4, 9, 12]
    assert [q.id for q in golden.scored] == ["refund-late", "no"]
    assert golden.relevant == ["1", "1e5", "kb/42", "null"]


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("text: can I return a parcel after thirty days", "text:"), 5, "queries[0].text"),
        (("kb/42: 2 ", "kb/42: two "), 7, "queries[0].judged.kb/42: expected a grade"),
        (("kb/42: 2 ", "kb/42: -1 "), 7, "a whole number from 0 to 100, got '-1'"),
        (("kb/42: 2 ", "kb/42: 101 "), 7, "got '101'"),
        (("kb/42: 2 ", "kb/42: [2] "), 7, "got a list"),
        (("- id: later", "- name: later"), 12, "queries[2].'name': unknown key"),
        (("- id: later", "- id: refund-late"), 12, "stands on line 4 already"),
        (("- id: later\n", "- idd: later\n"), 12, "did you mean id?"),
        (("- id: later\n    text: nobody has judged this one", "- later"), 12, "got text"),
        (("kb/91: 0", "kb/42: 0"), 8, "judged twice"),
        (("version: 1", "version: 2"), 2, "this release reads 1, got '2'"),
        (("judged: {1: 1, 1e5: 3, null: 1}", "judged: yes"), 11, "expected document ids"),
        (("judged: {1: 1", "judged: {1: 1, [a]: 1"), 11, "expected a document id, got a list"),
        (("queries:", "querys:"), 3, "did you mean queries?"),
    ],
)
def test_a_malformed_file_names_line_and_field(tmp_path, change, line, words):
    """What came, what is valid, and where; never a query's text."""
    assert change[0] in NATIVE
    path = native(tmp_path, NATIVE.replace(*change))
    with pytest.raises(SettingsError) as raised:
        read_golden(path)
    assert f"{path}:{line}: " in str(raised.value)
    assert words in str(raised.value)
    assert "parcel" not in str(raised.value)


def test_a_file_that_is_no_yaml_names_the_line(tmp_path):
    """Also what the YAML library refuses, without its quotation."""
    path = native(tmp_path, NATIVE.replace('text: "yes"', 'text: "secret question'))
    with pytest.raises(SettingsError, match=r"golden\.yaml:\d+: ") as raised:
        read_golden(path)
    assert "secret" not in str(raised.value)
    path.write_bytes(b"queries:\n  - id: a\xff\n")
    with pytest.raises(SettingsError, match=r"golden\.yaml:2: not UTF-8"):
        read_golden(path)


@pytest.mark.parametrize("text", ["", "queries: []", "- a", "queries: {a: b}", "version: 1"])
def test_a_file_without_queries_says_so(tmp_path, text):
    """Empty is malformed, not a set of no queries."""
    with pytest.raises(SettingsError, match=r"golden\.yaml:1: queries: expected"):
        read_golden(native(tmp_path, text))


def test_many_problems_come_at_once(tmp_path):
    """The error names the first ones and counts the others."""
    entries = "".join(f"  - id: q{number}\n" for number in range(9))
    with pytest.raises(SettingsError, match="and 4 more") as raised:
        read_golden(native(tmp_path, f"queries:\n{entries}"))
    assert str(raised.value).count(".text: missing") == 5


@pytest.mark.parametrize("header", ["query-id\tcorpus-id\tscore\n", ""])
@pytest.mark.parametrize("place", ["qrels.tsv", "qrels/test.tsv"])
def test_beir(tmp_path, header, place):
    """queries.jsonl and qrels.tsv, with and without a header, where BEIR has them."""
    path = folder(
        tmp_path,
        '{"_id": "q1", "text": "one", "more": 1}\n{"_id": 2, "text": "two\\u2028lines"}\n\n',
        f"{header}q1\ta b\t2\nq1\tc\t0\n2\tc\t1\n",
        ("queries.jsonl", place),
    )
    golden = read_golden(path)
    assert golden.qrels == {"q1": {"a b": 2, "c": 0}, "2": {"c": 1}}
    assert [q.line for q in golden.queries] == [1, 2]


def test_trec(tmp_path):
    """Four columns parted by any white space; a negative grade is not relevant."""
    path = folder(
        tmp_path,
        "301\tfirst topic\n302\tsecond topic\n",
        "301 0 FT-1 2\n301\t0\tFT-2\t-2\n302 Q0 FT-2 1\n",
        ("queries.tsv", "qrels.txt"),
    )
    assert read_golden(path).qrels == {"301": {"FT-1": 2, "FT-2": 0}, "302": {"FT-2": 1}}


@pytest.mark.parametrize(
    ("queries", "qrels", "words"),
    [
        ('{"_id": "1"}', "", "queries.jsonl:1: text: expected text that is not empty, got nothing"),
        ('{"_id": "1", "text": " "}', "", "queries.jsonl:1: text: expected text that is not empty"),
        ('{"_id": [], "text": "a"}', "", "queries.jsonl:1: _id: expected text"),
        ("[1]", "", "queries.jsonl:1: line: expected a JSON object, got list"),
        ("nonsense", "", "queries.jsonl:1: line: expected a JSON object"),
        (None, "1\td\t1\n1\td\tx", "qrels.tsv:2: score: expected a grade, a whole number, got 'x'"),
        (None, "1\td\t1.5", "qrels.tsv:1: score: expected a grade"),
        (None, "1\td\t1\n7\td\t1", "qrels.tsv:2: query-id: '7' is not among the queries"),
        (None, "1\td", "qrels.tsv:1: line: expected query, document and grade"),
        (None, "1 d 1", "qrels.tsv:1: line: expected query, document and grade"),
        (None, "1\td\t1\n1\td\t2", "qrels.tsv:2: corpus-id: 'd' is judged"),
    ],
)
def test_a_malformed_folder_names_file_line_and_field(tmp_path, queries, qrels, words):
    """The same for others' formats."""
    path = folder(tmp_path, queries or '{"_id": "1", "text": "one"}', qrels)
    with pytest.raises(SettingsError) as raised:
        read_golden(path)
    assert words in str(raised.value)


def test_what_is_no_golden_set(tmp_path):
    """A missing file, a folder without judgements, two kinds of queries, another kind of file."""
    with pytest.raises(SettingsError, match="no such file or folder"):
        read_golden(tmp_path / "none.yaml".replace(".yaml", ""))
    (tmp_path / "queries.jsonl").write_text("")
    with pytest.raises(SettingsError, match="no judgements in"):
        read_golden(tmp_path)
    (tmp_path / "queries.tsv").write_text("")
    with pytest.raises(SettingsError, match=r"queries\.jsonl and queries\.tsv"):
        read_golden(tmp_path)
    with pytest.raises(SettingsError, match="golden convert"):
        read_golden(tmp_path / "queries.tsv")
    with pytest.raises(SettingsError, match="cannot read"):
        read_golden(tmp_path / "none.yaml")


def test_duplicates_are_told_from_malformed_entries(tmp_path):
    """`golden check` lists them; everything else that is well formed is still read."""
    golden, problems = inspect_golden(
        native(tmp_path, NATIVE.replace("- id: later", "- id: refund-late"))
    )
    assert [problem.kind for problem in problems] == ["duplicate"]
    assert len(golden.queries) == 2


def test_the_digest_is_of_what_is_scored(tmp_path):
    """Comments, order and unjudged queries start no new baseline; a grade does."""
    first = read_golden(native(tmp_path, NATIVE)).digest
    parts = NATIVE.replace("# Owner: the support team.\n", "").split("  - id: later")
    assert first == read_golden(native(tmp_path, parts[0])).digest
    assert first != read_golden(native(tmp_path, NATIVE.replace("kb/42: 2", "kb/42: 1"))).digest
    assert first != read_golden(native(tmp_path, NATIVE.replace("parcel", "letter"))).digest


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
).filter(str.strip)


@given(st.dictionaries(texts, st.tuples(texts, st.dictionaries(texts, st.integers(0, 100)))))
def test_what_is_written_is_read_back(tmp_path_factory, content):
    """Ids and texts of any characters survive; other YAML readers see text too."""
    queries = [GoldenQuery(i, text, judged, 1) for i, (text, judged) in content.items()]
    path = tmp_path_factory.mktemp("golden") / "golden.yaml"
    write_native(queries, path)
    if not queries:
        return
    golden = read_golden(path)
    assert {q.id: (q.text, dict(q.judged)) for q in golden.queries} == content
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert all(isinstance(entry["id"], str) for entry in loaded["queries"])
    with pytest.raises(SettingsError, match="exists already"):
        write_native(queries, path)


def test_long_ids_are_written_as_yaml_wants_them(tmp_path):
    """A document id may have a thousand characters; a plain YAML key may not."""
    judged = {"é" * 1000: 1, "\x01" * 900: 2}
    write_native([GoldenQuery("q", "text", judged, 1)], tmp_path / "golden.yaml")
    assert read_golden(tmp_path / "golden.yaml").qrels == {"q": judged}


def test_convert_and_check_without_an_index(tmp_path, monkeypatch, capsys):
    """`golden convert` writes what `golden check --file-only` finds nothing wrong with."""
    monkeypatch.chdir(tmp_path)
    source = folder(tmp_path, '{"_id": "1", "text": "one"}', "1\td\t1\n")
    assert app.run(["golden", "convert", str(source), "golden.yaml"]) == ExitCode.OK
    assert app.run(["golden", "check", "golden.yaml", "--file-only"]) == ExitCode.OK
    assert "nothing to mend" in capsys.readouterr().out
    assert app.run(["golden", "convert", str(source), "golden.yaml"]) == ExitCode.USAGE
    (tmp_path / "qrels.tsv").write_text("1\td\tx\n2\td\ty\n")
    assert app.run(["golden", "check", str(source), "--file-only"]) == ExitCode.NO
    assert "unjudged" in capsys.readouterr().out
