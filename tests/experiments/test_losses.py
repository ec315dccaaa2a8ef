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


def test_a_fragment_is_python_that_makes_the_term():
  term = {'loss': 'maps.at', 'weight': 1.0, 'mask': '', 'kwargs': {}, 'scale': 'batch/x',
          'reads': {f'argument{i}': f'student/stage{i}/features' for i in range(9)}}
  said = losses.assigned('term', term)
  found = {}
  exec(said, found)                 # a statement, over several lines
  assert found['term'] == {k: v for k, v in term.items() if k not in ('mask', 'kwargs')}
  assert len(said.splitlines()) > 1 and max(map(len, said.splitlines())) <= losses.WIDTH


def test_papers_are_taken_out_of_the_first_paragraph():
  def loss():
    """A mean (of some sort) of maps
    (Somebody 2017, eq. 2 (left)). And more (Other 1999).

    Not this (Nobody 2020).
    """
  assert losses.cited(loss) == ('A mean (of some sort) of maps. And more.',
                                'Somebody 2017, eq. 2 (left); Other 1999')
