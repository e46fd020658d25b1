"""The record of a run: what is stored comes back equal, of this version or not, and what is no record says why."""

import json

import pytest

from lm import pretrained
from lm.checkpoint import CheckpointError, read_run
from lm.model import Config
from lm.run import Run

every_model = pytest.mark.parametrize("name", pretrained.names())


def stored(name):
    return json.loads((pretrained.FOLDER / name / "run.json").read_bytes())


@every_model
def test_what_is_stored_comes_back_equal(name):
    record = stored(name)
    run = Run.from_json(record)
    assert run.to_json() == record and Run.from_json(json.loads(json.dumps(run.to_json()))) == run
    assert run.history[-1].step == run.step == run.settings.steps and run.manifest is None


def test_options_that_the_mixer_lacks_are_passed_over_in_a_record():
    record = stored("mamba2")
    record["config"] |= {"top_k": 8, "temperature": 0.5}
    assert Run.from_json(record).config == Config("mamba2")


def test_an_option_that_is_younger_than_a_record_has_its_default():
    record = stored("transformer")
    del record["config"]["window"], record["config"]["positions"]
    assert Run.from_json(record).config == Config("transformer") and Config("transformer").options.window == 0


def test_what_is_no_record_says_why(tmp_path):
    with pytest.raises(KeyError, match=r"no config, corpus, history, settings, text in run.json"):
        Run.from_json({"step": 3})
    record = stored("fm")
    record["settings"]["lightning"] = 1
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"damaged or of another version \(.*unexpected keyword.*'lightning'"):
        read_run(tmp_path)
    record = stored("fm")
    record["config"]["gates"] = True
    with pytest.raises(TypeError, match="gates is no field of Config and no option of a mixer"):
        Run.from_json(record)
