"""Faults planted in lm/checkpoint.py."""

from tests.mutants.fault import PRETRAINED, planted

# fmt: off
FAULTS = [
    *planted(
        "lm/checkpoint.py", PRETRAINED,
        ("publish: what is there stays", "    if over and final.exists():\n        remove(final)\n", "    if over and final.exists():\n        return\n"),
    ),
    *planted(
        "lm/checkpoint.py", "tests/lm/test_train.py -k synced",
        ("run: a save is renamed before it is on the disk", "    _sync_folder(hidden)\n    if over", "    if over"),
    ),
    *planted(
        "lm/checkpoint.py", "tests/lm/test_train.py -k 'process or reader or ours or order or full or removed or written'",
        ("run: a second writer is let in", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
        ("run: the lock is another process's file", "            _lock(file.fileno())\n",
         "            _lock(file.fileno())\n            if file.seek(0, 2): raise BlockingIOError\n"),
        ("run: a reader does not try again", "if found.exists():\n                raise", "raise"),
        ("run: all that begins with step- is ours", "if NAME.fullmatch(path.name) and path.is_dir()", "if True"),
        ("run: a folder of the user's is a checkpoint", 'if os.path.isfile(path / "run.json")]', "]"),
        ("run: checkpoints sorted as text", 'int(path.name.removeprefix("step-"))', 'path.name'),
        ("run: half a save stays", "        shutil.rmtree(hidden, ignore_errors=True)", "        pass"),
        ("run: what is being read stops the training", "with suppress(OSError):", "with suppress(KeyError):"),
        ("run: no probe", "    writable(folder, option)\n", "    folder.mkdir(parents=True, exist_ok=True)\n"),
    ),
]
# fmt: on
