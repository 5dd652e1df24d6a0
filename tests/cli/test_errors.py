"""One clear line for every wrong input."""

import pickle
from pathlib import Path

import pytest

from pyro_gen._errors import AdviceError, InPython
from pyro_gen.cli import errors
from pyro_gen.data.problems import Problems
from tests.cli.shell import FIT, run


def test_advice_is_in_words_of_who_called() -> None:
    error = AdviceError(
        "{draws}: or {init}, {init_}; give {kl_warmup} too.", draws=3, init="a", init_="b", kl_warmup=...
    )
    assert str(error) == 'draws=3: or init="a", init="b"; give kl_warmup= too.'
    assert errors.one_line(error) == "--draws 3: or --init a, --init b; give --kl-warmup too."


def test_advice_goes_through_a_list_of_problems_and_a_process(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = AdviceError("leave it out{ignore}, or say {missing}.", ignore=InPython("", ["{a}"]), missing=["x y", "z"])
    several = pickle.loads(pickle.dumps(Problems([out, "column 'b' is empty."], "t.csv: ")))
    assert str(several) == (
        "t.csv: 2 problems: (1) leave it out, or say missing=['x y', 'z']; (2) column 'b' is empty."
    )
    assert errors.one_line(several) == str(several).replace("missing=['x y', 'z']", "--missing 'x y' --missing z")
    with pytest.raises(Problems) as error, errors.in_options({"ignore": lambda names: f" (--ignore {names[0]})"}):
        raise out
    assert errors.one_line(error.value) == "leave it out (--ignore {a}), or say --missing 'x y' --missing z."
    # A command says no option that it does not have: fit has neither --missing nor --ignore.
    Path("odd.csv").write_text("a,b\n1.5,2024-02-29\n2.5,2023-02-29\nlots,2024-02-28\n")
    code, _, err = run(capsys, *FIT, "odd.csv", "--no-progress")
    assert code == 2 and "(1) column 'a': numbers, and 'lots' in row 3" in err and "; (2) column 'b': " in err
    assert "--missing" not in err and "--ignore" not in err and "=[" not in err
    Path("two_ways.csv").write_text("a;b\n1.250;1\n2.500;2\n")
    assert "name the decimal mark (--decimal . or --decimal ,)." in run(capsys, *FIT, "two_ways.csv")[2]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("fit", "VEA", "--data", "iris"), "there is no model 'VEA'"),
        (("fit", "own.py:Nope", "--data", "t.csv"), "own.py has no 'Nope'; its programs are: Factors, Fixed"),
        (("fit", "own.py:not_a_program", "--data", "t.csv"), "holds a int, not a program"),
        (("fit", "own.py", "--data", "t.csv"), "say which program, as own.py:Name"),
        (("fit", "own.py:Needs", "--data", "t.csv"), "own.py:Needs needs --set depth=..., an argument"),
        (("check", "own.py:Shaped"), "own.py:Shaped needs event_shape, the shape of its data: give some, by --data"),
        (
            ("fit", "own.py:Context", "--data", "t.csv"),
            "Context takes context (u): give a file by --context FILE",
        ),
        (("check", "own.py:Context"), "Context takes context (u): give a file by --context FILE"),
        (
            ("fit", "own.py:functions", "--data", "t.csv"),
            "takes context (u, w): give files by --context FILE --context FILE",
        ),
        (("fit", "own.py:Late", "--data", "t.csv"), "Late.__init__ must call super().__init__() before anything else"),
        (("fit", "own.py:Never", "--data", "t.csv"), "Never.__init__ must call super().__init__() before anything"),
        (("fit", "own.py:Alien", "--data", "t.csv"), "Alien does not inherit from pyro_gen.Program"),
        (("fit", "own.py:Blind", "--data", "t.csv"), "in the guide, the parameter loc of Normal is NaN"),
        (("fit", "own.py:Blind", "--data", "t.csv"), "torch.nan_to_num(x), and x.isnan() beside it."),
        (("fit", "own.py:Positive", "--data", "t.csv"), "Site 'x': the value -"),
        (("fit", "own.py:Positive", "--data", "t.csv"), "transform the data (--transform)"),
        (("fit", "own.py:OffPrior", "--data", "t.csv"), "the guide draws outside of the support"),
        ((*FIT, "constant.csv", "--transform", "standardize"), "column 'flag' does not vary in the training data"),
        ((*FIT, "t.csv", "--out", "t.csv/w.pt"), "t.csv is a file, not a folder"),
        ((*FIT, "t.csv", "--out", "."), "--out .: is a folder"),
        ((*FIT, "t.csv", "--checkpoint", "t.csv/w.pt"), "--checkpoint t.csv/w.pt: "),
        ((*FIT, "t.csv", "--clip-norm", "-1"), "--clip-norm -1.0: the greatest norm"),
        (("demo", "--out", "t.csv/a.png"), "t.csv is a file, not a folder"),
        (("fit", "nowhere.py:Fixed", "--data", "t.csv"), "nowhere.py: no such file"),
        (("fit", "broken.py:Fixed", "--data", "t.csv"), "broken.py, line 1: '(' was never closed"),
        (("fit", "raises.py:Fixed", "--data", "t.csv"), "raises.py does not run: ModuleNotFoundError"),
        (("fit", "empty.py", "--data", "t.csv"), "it defines no subclass of pyro_gen.Program"),
        (("fit", "own.py:Fixed"), "say what to train own.py:Fixed on, by --data"),
        ((*FIT, "nothing.csv"), "nothing.csv: no such file"),
        ((*FIT, "irsi"), "there is no data set 'irsi'"),
        ((*FIT, "text.csv"), "column 'b' holds text: 'x' in row 1"),
        ((*FIT, "holes.csv"), "row 2 below the header); --drop-empty leaves them out"),
        ((*FIT, "empty.csv"), "the file is empty"),
        ((*FIT, "header.csv"), "no rows"),
        ((*FIT, "junk.pt"), "not an array of numbers"),
        ((*FIT, "mnist"), "name its folder by --data-root"),
        ((*FIT, "two.csv"), "shape"),  # two columns for a program of three
        ((*FIT, "t.csv", "--transform", "binarise=3"), "there is no transform 'binarise' (did you mean 'binarize'?)"),
        ((*FIT, "t.csv", "--set", "factors"), "--set factors: give an argument of the program as name=value"),
        ((*FIT, "t.csv", "--set", "factors=2"), "unexpected keyword argument 'factors'"),
        ((*FIT, "t.csv", "--validation", "1.5"), "a fraction in (0, 1)"),
        (("fit", "vae-digits", "--validation", "0"), "an entry of the zoo"),
        ((*FIT, "t.csv", "--particles", "5"), "say of which objective, by --objective"),
        ((*FIT, "t.csv", "--objective", "iwae"), "say how many draws per datum, by --particles"),
        ((*FIT, "t.csv", "--kl-warmup", "-1"), "--kl-warmup -1: give"),
        (
            (*FIT, "t.csv", "--objective", "dreg", "--particles", "5", "--kl-warmup", "2"),
            "DReG has no KL weight to warm up",
        ),
        ((*FIT, "t.csv", "--resume"), "--resume goes on from a checkpoint: give --checkpoint too"),
        (("fit", "VAE", "--data", "iris", "--set", "hidden=3"), "VAE(hidden=3)"),
        (("fit", "VAE", "--data", "iris", "--set", "latent=0"), "VAE(latent=0)"),
        ((*FIT, "t.csv", "--patience", "3"), "--patience stops on the validation loss: give --validation too."),
        ((*FIT, "t.csv", "--lr", "-1"), "the learning rate is positive"),
        ((*FIT, "t.csv", "--schedule", "cosin"), "--schedule cosin: give"),
        (("fit", "own.py:Explodes", "--data", "t.csv"), "site 'x'"),
        (("fit", "VAE", "--data", "digits"), "which takes 0 and 1: transform the data (--transform)"),
        (("fit", "FactorAnalysis", "--data", "digits", "--set", "rank=2"), "is for tables"),
        (("fit", "FactorAnalysis", "--data", "iris"), "FactorAnalysis needs --set rank=..."),
        (
            ("fit", "FactorAnalysis", "--data", "iris", "--set", "rank=two"),
            "cannot be built with rank='two': Type",
        ),
        (("fit", "VAE", "--data", "iris", "--set", "latent=two"), "VAE(latent='two'): give a positive integer"),
        (("fit", "vae-digits", "--data", "iris"), "an entry of the zoo"),
        (("fit", "TableStudent", "--data", "t.csv"), "type pyro-gen impute t.csv --method student_t"),
        (("fit", "tabular", "--data", "t.csv"), "there is no model 'tabular': choose one of "),
        (("evaluate", "nothing.pt", "--data", "iris"), "nothing.pt: no such file"),
        (("evaluate", "junk.pt", "--data", "iris"), "junk.pt: not a program saved by pyro-gen fit"),
        (("evaluate", "other.pt", "--data", "iris"), "other.pt: not a program saved by pyro-gen fit"),
        (("sample", "empty.csv"), "not a program saved by pyro-gen fit"),
        (("zoo", "show", "vae"), "the zoo has no entry 'vae'"),
        (("zoo", "reproduce", "vae-mnist"), "vae-mnist needs mnist"),
        (("zoo", "reproduce", "vae-mnist", "--data-root", "."), "does not hold it in torchvision's layout"),
        (("zoo", "table", "--write", "text.csv"), "no lines"),
        (("check", "VAE"), "say which, by --data"),
        (("demo", "--out", "picture.txt"), "ends in .png, .pdf or .svg"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    code, out, err = run(capsys, *words, *(["--no-progress"] if words[0] in ("fit", "evaluate") else []))
    assert (code, out) == (2, "")
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert complaint in lines[0]
    assert len(lines[0]) < 720
