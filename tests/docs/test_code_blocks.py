"""Every Python code block of README.md and docs/ runs, as a file and pasted; every relative link leads somewhere.

The blocks of a page run in order in one namespace, so that a later block continues an earlier one. A block under the
comment `<!-- not run: reason -->` is only compiled; so is one under `<!-- file: name.py -->`, which is to be saved as
that: `test_tutorial.py` runs those.
"""

from __future__ import annotations

import re
import sys
import textwrap
import traceback
import types
from code import InteractiveConsole
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RUN_PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
LINKED_PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for folder in ("docs", "vectors", "benchmarks", "tests") for page in sorted((ROOT / folder).rglob("*.md"))),
]
# The page that needs a server finds its address where it tells a reader to put it, and is skipped where there is none.
DATABASE_PAGE = ROOT / "docs" / "how-to" / "postgres.md"
# So do the pages that need a broker: by the kind of broker, as tests/brokers.py names it.
BROKER_PAGES = {ROOT / "docs" / "how-to" / f"{kind.lower()}.md": kind for kind in ("Nats", "Redis")}
README_COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/python -m agentmesh demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- reading a page --------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    line: int  # of its first line of code, counted from 1
    language: str
    source: str
    is_run: bool


class Page(NamedTuple):
    blocks: list[Block]
    prose: list[tuple[int, str]]  # the numbered lines outside code blocks


_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`]*)$")
_NOT_RUN = re.compile(r"^\s*<!--\s*(?:not run|file)\b:?\s*(?P<reason>.*?)\s*-->\s*$")


def read_page(text: str) -> Page:
    """Split a page into code blocks and prose. Raises ValueError, with the line, for a page that hides code from us."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    not_run_line = 0
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            marker = _NOT_RUN.match(line)
            if not_run_line and line.strip():
                raise ValueError(f"{not_run_line}: `not run` stands before no Python block")
            if marker is None:
                prose.append((number, line))
            elif not marker["reason"]:
                raise ValueError(f"{number}: `not run` without a reason")
            else:
                not_run_line = number
            continue
        code: list[str] = []
        closing = re.compile(rf" *{re.escape(opening['fence'][0])}{{{len(opening['fence'])},}} *$")
        for _, inner in lines:
            if closing.match(inner):
                break
            code.append(inner)
        else:
            raise ValueError(f"{number}: a code block that never ends")
        language = (opening["info"].split() or [""])[0]
        if language != "python" and re.match(r"py|ipy", language, re.IGNORECASE):
            raise ValueError(f"{number}: a block in `{language}` would not run; write `python`")
        if not_run_line and language != "python":
            raise ValueError(f"{not_run_line}: `not run` stands before no Python block")
        source = textwrap.dedent("\n".join(code)) + "\n"
        blocks.append(Block(number + 1, language, source, is_run=not not_run_line))
        not_run_line = 0
    if not_run_line:
        raise ValueError(f"{not_run_line}: `not run` stands before no Python block")
    return Page(blocks, prose)


# --- running its blocks ----------------------------------------------------------------------------------------------


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the Python blocks of `page`, and return how many. Fails the test with page and line."""
    try:
        blocks = read_page(page.read_text(encoding="utf-8")).blocks
    except ValueError as error:
        pytest.fail(f"{page}:{error}", pytrace=False)
    module = types.ModuleType(re.sub(r"\W", "_", page.name))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # because dataclasses look their module up
    ran = 0
    for block in blocks:
        if block.language != "python":
            continue
        try:
            # Blank lines in front make the line numbers of a traceback those of the page.
            code = compile("\n" * (block.line - 1) + block.source, str(page), "exec", dont_inherit=True)
            if block.is_run:
                exec(code, module.__dict__)
                ran += 1
        except (Exception, SystemExit) as error:
            pytest.fail(f"{page}:{_line_of(error, page, block)}: {type(error).__name__}: {error}", pytrace=False)
    return ran


def paste_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Type the Python blocks of `page` line by line into one interactive console, and return how many.

    A console ends a compound statement at a blank line, and takes none that is not over. So a page that runs as a file
    may still break for somebody who pastes it.
    """
    module = types.ModuleType(re.sub(r"\W", "_", page.name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "displayhook", lambda _value: None)
    pasted = 0
    line_number = 0

    class Console(InteractiveConsole):
        def showtraceback(self) -> None:
            error = sys.exc_info()[1]
            pytest.fail(f"{page}:{line_number}: {type(error).__name__}: {error}", pytrace=False)

        def showsyntaxerror(self, *_arguments: Any, **_named: Any) -> None:
            self.showtraceback()

    console = Console(module.__dict__, "<stdin>")
    for block in read_page(page.read_text(encoding="utf-8")).blocks:
        if block.language != "python" or not block.is_run:
            continue
        for line_number, line in enumerate(block.source.splitlines(), start=block.line):  # noqa: B007 - told by the console
            console.push(line)
        # Whoever pastes a block presses the return key behind it.
        if console.push(""):
            pytest.fail(f"{page}:{line_number}: the block is not over", pytrace=False)
        pasted += 1
    return pasted


def _line_of(error: BaseException, page: Path, block: Block) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(page) and error.lineno:
        return error.lineno
    numbers = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(page)]
    return numbers[-1] if numbers else block.line


def prepare(page: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Start the server that a page needs; the test is skipped where there can be none."""
    if page == DATABASE_PAGE:
        monkeypatch.setenv("AGENTMESH_DATABASE", request.getfixturevalue("conninfo"))
    elif (kind := BROKER_PAGES.get(page)) is not None:
        monkeypatch.setenv(f"AGENTMESH_{kind.upper()}", request.getfixturevalue("broker_of")(kind).url)
        monkeypatch.syspath_prepend(ROOT / "examples")


@pytest.mark.parametrize("page", RUN_PAGES, ids=page_id)
def test_the_code_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(page, monkeypatch, request)
    run_page(page, monkeypatch)


@pytest.mark.parametrize("page", RUN_PAGES, ids=page_id)
def test_the_code_blocks_of_a_page_can_be_pasted_line_by_line(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(page, monkeypatch, request)
    paste_page(page, monkeypatch)


def test_the_readme_has_an_example_that_runs() -> None:
    assert any(block.language == "python" and block.is_run for block in read_page(README.read_text("utf-8")).blocks)


@pytest.mark.parametrize("command", README_COMMANDS)
def test_the_readme_gives_each_command_alone_in_a_shell_block(command: str) -> None:
    shell = [block.source for block in read_page(README.read_text("utf-8")).blocks if block.language == "sh"]
    assert shell.count(command + "\n") == 1


# --- links -----------------------------------------------------------------------------------------------------------

_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_LINK = re.compile(r"\]\(\s*<?(?P<target>[^)\s>]+)>?(?:\s+[\"'][^)]*)?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(?P<target>[^\s>]+)")
_HTML = re.compile(r"\b(?:href|src)=[\"'](?P<target>[^\"']+)[\"']")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(?P<text>.*?)(?:\s+#+)?\s*$")
_ANCHOR = re.compile(r"\b(?:id|name)=[\"'](?P<name>[^\"']+)[\"']")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page, as GitHub makes them from headings, and explicit ones."""
    anchors: set[str] = set()
    for _, line in read_page(text).prose:
        anchors.update(match["name"] for match in _ANCHOR.finditer(line))
        heading = _HEADING.match(line)
        if heading is None:
            continue
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"])
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        anchors.add(next(name for n in count() if (name := f"{slug}-{n}" if n else slug) not in anchors))
    return anchors


def broken_links(page: Path, root: Path) -> list[str]:
    """Return `line: target` for each relative link of `page` without a file, or an anchor, inside `root`."""
    broken = []
    for number, line in read_page(page.read_text(encoding="utf-8")).prose:
        text = _CODE_SPAN.sub("", line)
        targets = [match["target"] for pattern in (_LINK, _HTML) for match in pattern.finditer(text)]
        if reference := _REFERENCE.match(text):
            targets.append(reference["target"])
        for target in targets:
            if _SCHEME.match(target) or target.startswith("//"):
                continue
            path, _, anchor = unquote(target).partition("#")
            file = (page.parent / path).resolve() if path else page
            exists = file.is_relative_to(root) and file.exists()
            if exists and anchor and file.suffix == ".md":
                exists = anchor in anchors_of(file.read_text(encoding="utf-8"))
            if not exists:
                broken.append(f"{number}: {target}")
    return broken


@pytest.mark.parametrize("page", LINKED_PAGES, ids=page_id)
def test_the_relative_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page, ROOT) == []


# --- the checks themselves can fail ----------------------------------------------------------------------------------


def _write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(textwrap.dedent(text), encoding="utf-8")
    return page


def test_later_blocks_continue_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _write(
        tmp_path,
        """\
        ```python
        x = 1
        ```
        1. in a list:
           ```python title="two"
           assert x == 1
           ```
        ```sh
        exit 1
        ```
        <!-- not run: it would fail -->

        ```python
        assert x == 2
        ```
        """,
    )
    assert run_page(page, monkeypatch) == 2


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a\n\n```python\nx = 1\nassert x == 2\n```\n", ":5: AssertionError"),
        ("```python\ndef f():\n    raise KeyError\n```\n```python\nf()\n```\n", ":3: KeyError"),
        ("```python\nx = 1\n```\n~~~python\nx = = 2\n~~~\n", ":5: SyntaxError"),
        ("<!-- not run: needs a network -->\n```python\nx = = 2\n```\n", ":3: SyntaxError"),
        ("```python\nraise SystemExit(0)\n```\n", ":2: SystemExit"),
        ("```py\nx = 1\n```\n", ":1: a block in `py`"),
        ("\n```python\nx = 1\n", ":2: a code block that never ends"),
        ("<!-- not run -->\n```python\nx = 1\n```\n", ":1: `not run` without a reason"),
        ("<!-- not run: reason -->\ntext\n```python\nx = 1\n```\n", ":1: `not run` stands before no"),
        ("<!-- not run: reason -->\n```sh\ntrue\n```\n", ":1: `not run` stands before no"),
        ("text\n<!-- not run: reason -->\n", ":2: `not run` stands before no"),
    ],
)
def test_a_page_fails_with_its_line(text: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _write(tmp_path, text)
    with pytest.raises(pytest.fail.Exception, match=re.escape(str(page) + where)):
        run_page(page, monkeypatch)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("```python\nfor x in [1]:\n    pass\nx = 2\n```\n", ":4: SyntaxError"),
        ("```python\nclass A:\n    x = 1\n\n    y = 2\n```\n", ":5: IndentationError"),
        ("```python\nx = (\n```\n", ":2: the block is not over"),
        ("```python\nx = 1\n```\n```python\nassert x == 2\n```\n", ":5: AssertionError"),
    ],
)
def test_a_page_that_cannot_be_pasted_fails_with_its_line(
    text: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = _write(tmp_path, text)
    with pytest.raises(pytest.fail.Exception, match=re.escape(str(page) + where)):
        paste_page(page, monkeypatch)


def test_a_page_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = _write(
        tmp_path,
        """\
        ```python
        try:
            x = 1
        finally:
            y = [
                x,

                2,
            ]

        assert y == [1, 2]
        ```
        ```python
        y
        assert y[0] == x
        ```
        """,
    )
    assert paste_page(page, monkeypatch) == 2


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One & two, `three`\n# Twice\n# Twice\n```\n# code\n```\n", encoding="utf-8")
    page = _write(
        tmp_path,
        """\
        [a](other.md) [b](other.md#one--two-three) ![c](other.md "title") [d](#here) <a id="here"></a>
        [e](https://example.org/x.md) [f](other.md#twice-1) `[not](a-link.md)` [g](mailto:a@example.org)
        [1](missing.md) ![2](missing.png) [3](other.md#absent)
        [4](#absent) <img src="missing.svg"> [5](other.md#code)
        [6]: missing-reference.md
        [7](../outside.md)
        ```
        [8](missing-in-code.md)
        ```
        """,
    )
    (tmp_path.parent / "outside.md").write_text("", encoding="utf-8")
    assert broken_links(page, tmp_path) == [
        "3: missing.md",
        "3: missing.png",
        "3: other.md#absent",
        "4: #absent",
        "4: other.md#code",
        "4: missing.svg",
        "5: missing-reference.md",
        "6: ../outside.md",
    ]
