from importlib.util import find_spec

if find_spec("sqlalchemy") is None:  # pip install 'offbeat[study]'
    collect_ignore_glob = ["test_*.py"]
