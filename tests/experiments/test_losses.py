import pytest

from experiments import losses


def test_the_page_is_what_the_code_makes(capsys):
  assert losses.main(['--check']) == 0, capsys.readouterr().err


def test_a_changed_page_is_refused(tmp_path, monkeypatch, capsys):
  page = tmp_path / 'README.md'
  monkeypatch.setattr(losses, 'PAGE', page)
  monkeypatch.setattr(losses, 'rendered', lambda: 'as it is')
  assert losses.main(['--check']) == 11 and losses.main(['--chek']) == 10
  assert losses.main([]) == 0 and losses.main(['--check']) == 0
  page.write_text('as it was')
  assert losses.main(['--check']) == 11
  assert 'python -m experiments.losses' in capsys.readouterr().err


def test_a_loss_that_no_variant_uses_is_on_the_page(monkeypatch):
  monkeypatch.setattr(losses, 'FILES', ('digits',))
  monkeypatch.setattr(losses, 'others', lambda: iter(()))
  page = losses.rendered()
  section = page.partition('\n### attention.kl\n')[2].partition('\n### ')[0]
  assert 'No variant of a config uses it.' in section and 'Needs' not in section
  assert page.count('Used by every method.') == 1


@pytest.mark.parametrize('file', losses.FILES)
def test_the_lines_of_a_method_are_python_that_makes_its_variant(file):
  for method in list(losses.methods_of([file])):
    code = method.function.__globals__
    code['METHODS']['none'] = lambda c: None
    c = code['get_config']('none')
    assert c.to_dict() != method.node
    exec(losses.body(method.function), {**code, 'c': c})
    assert c.to_dict() == method.node, method.title


def test_papers_are_taken_out_of_the_first_paragraph():
  def loss():
    """A mean (of some sort) of maps
    (Somebody 2017, eq. 2 (left)). And more (Other 1999).

    Not this (Nobody 2020).
    """
  assert losses.cited(loss) == ('A mean (of some sort) of maps. And more.',
                                'Somebody 2017, eq. 2 (left); Other 1999')
