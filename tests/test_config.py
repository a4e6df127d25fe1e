import pytest
import yaml

from understudy.config import Config, build_config, differences, load_config, parse_overrides

MINIMAL = {"data": {"name": "digits"}, "student": {"model": "cnn_tiny"}}


def written(tmp_path, text, name="c.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_printed_config_rebuilds_itself():
    config = build_config(
        MINIMAL | {"losses": [{"name": "ce"}, {"name": "dhkd", "weight": {"until_epoch": 3}}]}, {}
    )
    assert Config.model_validate(yaml.safe_load(config.yaml())) == config


def test_a_preset_stands_for_its_terms_and_its_alignment():
    config = build_config(MINIMAL | {"method": "dhkd"}, {})
    assert [t["name"] for t in config.losses] == ["ce", "dhkd"]
    assert config.gradients.align == "released"
    own = build_config(MINIMAL | {"method": "dhkd", "gradients": {"align": "none"}}, {})
    assert own.gradients.align == "none"
    twin = build_config(MINIMAL | {"method": "dhkd", "gradients": {"twin": True}}, {})
    assert (twin.gradients.align, twin.gradients.twin) == ("released", True)


def test_a_pluspluss_preset_is_its_method_and_dino():
    assert [t["name"] for t in build_config(MINIMAL | {"method": "dkd++"}, {}).losses] == [
        "ce",
        "dkd",
        "dino",
    ]


@pytest.mark.parametrize(
    "losses",
    [
        [{"name": "ce"}],
        [{"name": "binary_kl"}],
        [{"name": "ce"}, {"name": "binary_kl"}],
        [{"name": "ce"}, {"name": "dhkd"}],
    ],
)
def test_the_four_settings_of_figure_2_are_configs(losses):
    assert [t["name"] for t in build_config(MINIMAL | {"losses": losses}, {}).losses] == [
        t["name"] for t in losses
    ]


def test_overrides_reach_nested_keys_and_list_items(tmp_path):
    path = written(
        tmp_path, "data: {name: digits}\nstudent: {model: cnn_tiny}\nlosses: [{name: ce}, {name: kd}]\n"
    )
    config = load_config(
        path, parse_overrides(["train.epochs=5", "losses.1.temperature=2", "train.optimizer.lr=1e-3"])
    )
    assert (config.train.epochs, config.losses[1]["temperature"], config.train.optimizer.lr) == (5, 2, 1e-3)


def test_a_config_extends_another(tmp_path):
    written(
        tmp_path,
        "data: {name: digits, val: 0.1}\nstudent: {model: cnn_tiny}\ntrain: {epochs: 3}\n",
        "base.yaml",
    )
    path = written(tmp_path, "extends: base.yaml\ntrain: {batch_size: 32}\n")
    config = load_config(path)
    assert (config.data.val, config.train.epochs, config.train.batch_size) == (0.1, 3, 32)


def test_scientific_numbers_without_a_dot_are_numbers(tmp_path):
    text = "data: {name: digits}\nstudent: {model: cnn_tiny}\ntrain: {optimizer: {weight_decay: 5e-4}}\n"
    assert load_config(written(tmp_path, text)).train.optimizer.weight_decay == 5e-4


def test_a_mapping_extends_a_file(tmp_path, monkeypatch):
    written(tmp_path, "data: {name: digits}\nstudent: {model: cnn_tiny}\ntrain: {epochs: 3, batch_size: 7}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config({"extends": "c.yaml", "train": {"epochs": 5}})
    assert (config.train.epochs, config.train.batch_size) == (5, 7)
    with pytest.raises(ValueError, match=r"unknown key 'extends'\. It belongs into the file"):
        load_config("c.yaml", {"extends": "c.yaml"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: {name: digits}\nstudent: {model: x}\ntrian: {}\n",
            r"line 3: unknown key 'trian'. Did you mean 'train'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\ntrain:\n  epoch: 3\n",
            r"line 4: .*'train.epoch'. Did you mean 'epochs'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\ntrain:\n  epochs: many\n",
            r"line 4: train.epochs must be a whole number, got 'many'",
        ),
        ("data: {name: digits}\nstudent: {model: x}\ntrain: {epochs: }\n", r"a whole number, got nothing"),
        ("data: {name: digits}\nstudent: {model: x}\ntrain: {epochs: 1e30}\n", r"a whole number, got 1e\+30"),
        (
            "data: {name: digits}\nstudent: {model: x}\nseed: 99999999999999999999\n",
            r"seed should be less than",
        ),
        ("data: {name: digits}\nstudent: {model: x}\nepochs: 3\n", r"Did you mean 'train.epochs'\?"),
        (
            "data: {name: digits}\nstudent: {model: x}\nlr: 3\n",
            r"line 3: unknown key 'lr'. Did you mean 'train.optimizer.lr'\?",
        ),
        (
            "data: digits\nstudent: {model: x}\n",
            r"line 1: data must be a mapping of keys, got 'digits'. Write data: \{name: digits\}",
        ),
        ("data: {name: digits}\nstudent: resnet20\n", r"Write student: \{model: resnet20\}"),
        (
            "data: {name: digits}\nstudent: {model: x}\ntrain: {optimizer: {lr: .inf}}\n",
            r"train.optimizer.lr must be a finite number, got inf",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\ntrain: {compile: perhaps}\n",
            r"train.compile must be true or false, got 'perhaps'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\ntrain: {epochs: 0}\n",
            r"greater than or equal to 1, got 0",
        ),
        ("data: {name: digits}\n", r"student must be given"),
        (
            "data: {name: digits}\nstudent: {model: x}\nlosses:\n  - {name: ce}\n  - {name: dkdd}\n",
            r"line 5: losses\[1\].name must be a known method, got 'dkdd'. Did you mean 'dkd'",
        ),
        ("data: {name: digits}\nstudent: {model: x}\nmethod: dhkdd\n", r"Did you mean 'dhkd'"),
        (
            "data: {name: digits}\nstudent: {model: x}\nmethod: kd\nlosses: [{name: ce}]\n",
            r"must not both be given",
        ),
        ("data: {name: digits}\nstudent: {model: x}\nseed: 1\nseed: 2\n", r"'seed' stands twice"),
        ("data: {name: [digits\n", r"must be valid YAML"),
        ("- 1\n", r"must be a mapping of keys, got list"),
        (
            "data: {name: digits}\nstudnet: {model: x}\n",
            r"line 2: unknown key 'studnet'. Did you mean 'student'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\nteachers: {v1.0: {model: y}}\n",
            r"teachers must have names without dots other than 'student', got 'v1\.0'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\nteachers: {a: {model: y}, b: {model: z}}\ngenerations: 2\n",
            r"assistants and generations must begin with one teacher or none, got teachers",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\nteachers:\n  Big: {model: y, tabel: off}\n",
            r"line 4: unknown key 'teachers.Big.tabel'. Did you mean 'table'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\nassistants:\n  - {model: y, wieghts: f}\n",
            r"line 4: unknown key 'assistants.0.wieghts'. Did you mean 'weights'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\nstudy: {methods: [{name: mine, loses: []}]}\n",
            r"line 3: unknown key 'study.methods.0.loses'. Did you mean 'losses'",
        ),
        (
            "data: {name: digits}\nstudent: {model: x}\nstudy: {methods: [3]}\n",
            r"line 3: study.methods\[0\] should be a valid string, got 3",
        ),
        ("extends: c.yaml\n", r"must not run in a circle"),
        ("extends: none.yaml\n", r"which is not there"),
        ("data: !!python/object/apply:os.system ['touch x']\nstudent: {model: x}\n", r"must be valid YAML"),
    ],
)
def test_a_wrong_config_is_one_line_that_says_where(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value)
    assert "c.yaml" in str(error.value) or "none.yaml" in str(error.value)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(ValueError, match="understudy init"):
        load_config(tmp_path / "nothing.yaml")


def test_a_folder_is_no_config_and_a_run_is_to_be_resumed(tmp_path):
    with pytest.raises(ValueError, match=r"got the folder .*\. Name the file$"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"or continue a run with: understudy resume .*"):
        load_config(tmp_path)


def test_overrides_are_read_as_a_file_is():
    read = parse_overrides(
        ["a=[1e-3, -2e-2, .5e1]", "b={x: 1e-1}", "c=1e-3", 'd="1e5"', "e=1e", "f=runs/1e5x"]
    )
    assert read == {
        "a": [1e-3, -2e-2, 5.0],
        "b": {"x": 0.1},
        "c": 1e-3,
        "d": "1e5",
        "e": "1e",
        "f": "runs/1e5x",
    }


@pytest.mark.parametrize("argument", ["epochs", "=5", "train.epochs=[1"])
def test_a_wrong_override_is_refused(argument):
    with pytest.raises(ValueError, match="override"):
        parse_overrides([argument])


def test_what_was_left_open_agrees_with_any_choice():
    open_config = build_config(MINIMAL, {})
    resolved = open_config.replaced(
        **{"train.device": "cpu", "train.threads": 2, "data.mean": [0.5], "data.std": [0.2]}
    )
    assert differences(open_config.model_dump(), resolved.model_dump()) == []
    other = open_config.replaced(**{"train.epochs": 7})
    assert differences(other.model_dump(), resolved.model_dump()) == ["train.epochs"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.limit", 100),
        ("train.ema", 0.9),
        ("train.clip_norm", 1.0),
        ("data.mix", {"name": "mixup"}),
        ("data.image_size", 64),
        ("data.augment", {"randaugment": {"ops": 1, "magnitude": 5}}),
        ("losses", [{"name": "ce", "class_weights": [1.0, 2.0]}]),
        ("losses", [{"name": "ce", "weight": {"value": 1.0, "until_epoch": 3}}]),
    ],
)
def test_what_is_off_does_not_agree_with_what_is_on(key, value):
    """Null says all images, or no moving average: a run with 100 images is another one."""
    off, on = build_config(MINIMAL, {}), build_config(MINIMAL, {key: value})
    assert differences(off.model_dump(), on.model_dump()) == [key]
    assert differences(on.model_dump(), off.model_dump()) == [key]


def test_what_leaves_a_choice_agrees_with_every_choice():
    left = {"data.augment": None, "train.threads": None, "data.mean": None}
    made = {"data.augment": {"pad": 4}, "train.threads": 2, "data.mean": [0.5]}
    one, two = (build_config(MINIMAL, changes).model_dump(mode="json") for changes in (left, made))
    assert differences(one, two) == []
    assert set(differences(two, one)) == set(left)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"colour": 0.4}, r"colour must stand beside name: resized_crop, got 0.4 beside pad_crop"),
        ({"name": "resized_crop", "pad": 2}, "pad must stand beside name: pad_crop"),
        ({"name": "pad_crop", "zoom": [0.5, 1.0]}, "zoom must stand beside name: scale_crop"),
    ],
)
def test_what_other_views_would_read_is_refused(augment, message):
    with pytest.raises(ValueError, match=message):
        build_config(MINIMAL, {"data.augment": augment})
