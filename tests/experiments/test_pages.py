"""Pages by templates: a missing value is an error, and Markdown stays as it is."""
import jinja2
import pytest

from experiments import pages


def test_a_page_ends_with_one_newline_and_leaves_markdown_as_it_is(tmp_path, monkeypatch):
  monkeypatch.setattr(pages, 'TEMPLATES', tmp_path)
  (tmp_path / 'a.md').write_text('{% for cells in lines %}\n{{ cells|row }}\n{% endfor %}\n\n\n')
  assert pages.rendered('a', lines=[['`<x>`', '&'], ['1', '2']]) == '| `<x>` | & |\n| 1 | 2 |\n'


def test_a_value_that_is_missing_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(pages, 'TEMPLATES', tmp_path)
  (tmp_path / 'a.md').write_text('{{ missing }}')
  with pytest.raises(jinja2.UndefinedError):
    pages.rendered('a')


def test_every_page_has_its_template():
  assert {path.stem for path in pages.TEMPLATES.iterdir()} == {
      'article', 'losses', 'methods', 'table', 'parts'}
