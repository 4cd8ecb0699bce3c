"""Exit code 2 for whatever is wrong with the command line itself, before a model is opened."""

from __future__ import annotations

import shlex

import pytest

# The model and the images are not there: 2 shows that neither was opened.
RUN = "run m.onnx a.png"
TARGETS = (
    "-t top:0|-t top:x|--versus top:2|-t top:2 --versus 1|-t 1 --versus 1|--versus ''|--box 0|"
    "--box 1 -t 2|--box 1 --kind classifier|--text --kind detector|--confidence 2|--at 1|"
    "--at 1,nan|--region 1,2,3|--region 5,5,1,1|--region no.png|--char 0|--unlike l.txt|"
    "--like no.png|--like l.txt --unlike l.txt|--raise --lower|--index 0|--raise --index x|"
    "--raise --index 0,,1|--raise --index ''|--raise --reduce x|--reduce mean|--raise -t 1|"
    "--confidence 0.5 --text"
)
MODEL = (
    "--input ''|--output ''|--labels ''|--labels no.txt|--activation x|--kind x|--threads 0|"
    "--provider nosuch|--provider ''|--extra-input x|--extra-input x=no.npy|"
    "--extra-input x=1 --extra-input x=2|--preprocess nosuch|--size 0|--size 99999999999|"
    "--resize x|--scale 0|--scale nan|--scale inf|--mean x|--mean nan|--std 0|--std 1,0,1|"
    "--mean 1,2 --channel-order RGB|--mean 1,2,3 --std 1,2|--layout x"
)
METHOD = (
    "--preset x|--gradient x|--gradient surrogate|--gradient exact --surrogate l.txt|"
    "--surrogate no.onnx|--baseline nosuch|--baseline #zzz|--baseline ''|--blur -1|--blur inf|"
    "--budget 3|--seed -1|--masks 3|--method iba --iba-images no|--deadline-ms 0|-q -v|"
    "--method rise --uncertainty|--method rise --signed|--uncertainty --gradient exact"
)
OUT = "-o ''|-o x.jpg|-o a.png|-o m.onnx|-o - --with-data"
INSPECT = "--try|--confidence 0.5|a.png --labels-csv l.txt|a.png --try --labels-csv no.csv|''"
EVAL = (
    "no.npy|--against x|--against iba|--metric x|--fail-under x|--fail-under x=1|--fail-over x=1|"
    "--within no.png|-t top:2|l.txt --metric stability|--gradient surrogate|--baseline zz"
)
BENCH = "--against x|--metric x|--every 0|-o ''|-t top:2|--gradient surrogate"
EXPORT = (
    "--size 0|--classes 3|--weights ''|--weights no.pt|-o -|-o ''|-o net.py|--tolerance 0|"
    "--labels no.txt|--images no.png|--preprocess nosuch"
)
ANNOTATE = "--remove --labels l.txt|-o ''|--labels no.txt|--scale 0|-o l.txt --labels l.txt"
DISTILL = "--student small --epochs 0|--held-out 1|-o -|-o ''|-o a.png|-o m.onnx|-o x.ort"
WRONG = [
    f"{verb} {words}"
    for verb, cases in (
        *((RUN, each) for each in (TARGETS, MODEL, METHOD, OUT)),
        ("inspect m.onnx", INSPECT),
        ("eval m.onnx a.png", EVAL),
        ("bench m.onnx a.png", BENCH),
        ("gradient m.onnx", "--input ''|--output ''|-o ''|-o m.onnx"),
        ("export net.py:make", EXPORT),
        ("annotate m.onnx", ANNOTATE),
        ("distill m.onnx a.png", DISTILL),
        ("demo", "-o ''|-o x.png|--seed -1"),
    )
    for words in cases.split("|")
]


@pytest.mark.parametrize("line", [*WRONG, "run", "run m.onnx", "run '' a.png", "run - -", "nosuch"])
def test_wrong_usage_is_code_2_and_one_line(cli, tmp_path, line):
    (tmp_path / "l.txt").write_text("a\nb\n")
    (tmp_path / "net.py").write_text("")
    result = cli(*("-" if word == "-" else word for word in shlex.split(line)))
    errors = [each for each in result.err.splitlines() if each.startswith("ibisa-onnx: error:")]
    assert (result.code, len(errors)) == (2, 1)


@pytest.mark.parametrize("line", ["run no.onnx a.png", "inspect no.onnx", "annotate no.onnx"])
def test_a_model_that_cannot_be_opened_is_code_1(cli, line):
    assert cli(*line.split()).code == 1
