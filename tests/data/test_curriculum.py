import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading import curriculum
from tests.data.stores import config

# Tokens in pretraining and in the context extension that followed, of the languages that both read, without English and
# code; language_counts.csv of mmBERT (Marone et al. 2025; MIT), which mixed them by alpha 0.7 and then 0.5.
MMBERT = """
rus 115435806777 30190326374 cmn 103720292223 27945068137 spa 89770162637 25154848362 deu 87337285702 24675202916
fra 79794431733 23120436976 jpn 58625517493 18619210075 ita 57312567533 18295141096 por 46894429074 16511163210
nld 37153917482 13377415660 pol 36514762641 13208941209 ind 32468401525 12209707215 kor 28395431813 11062835877
tur 24911024070 10099775897 fas 23255069621 9594349411 ces 22679268398 9418781132 ron 22361702990 9340045008
vie 22206126246 9281027035 arb 21212425415 9001996896 nob 20925047379 8894158913 hun 20200200728 8732288461
dan 19172736615 8395496467 swe 18608769024 8148216002 tha 18209344688 8068776268 ukr 17472489195 7807914532
ell 16417908793 7493090637 fin 14853068396 6950253470 bul 12894322204 6304057237 slk 12182141119 6064083846
hrv 11312355157 5760728057 hin 9995437569 5277666299 lit 8762417832 4796088487 heb 8315613128 4617641265
slv 7928219171 4463935424 ekk 7037982864 4089230082 ben 6482177579 3867576257 zsm 6299942426 3779705166
lvs 6150049033 3725594886 azj 4750590422 3107797533 urd 3627338877 2553578051 tam 3067539668 2275174837
kaz 2993899636 2203428354 afr 2662761651 2057062098 fil 2594565250 2022473412 mkd 2577181825 2004119608
mar 2575163657 2017478929 npi 2500423044 1976727451 kat 2494262076 1947107167 glg 2218144607 1793631733
tel 2085498015 1723380623 mal 2027825033 1679894961 mya 1836717720 1557739067 guj 1741402478 1533662439
khk 1669194774 1457850112 khm 1382715819 1283932381 swh 1278170699 1222882772 sin 1202542316 1143269585
gle 979857982 1018631715 pbt 865919461 932834699 xho 189777311 375091632
"""
TASKS = {"mlm": {"rows": 4, "length": 16}, "rank": {"rows": 4, "length": 8}}
LANGUAGES = ("de", "en", "hi")


def resolve(*phases, steps=100, mixing=None, pairs=("de-en",), **keys):
    made = config(TASKS, steps=steps, curriculum=phases, mixing=mixing or {}, **keys)
    return curriculum.resolve(made, LANGUAGES, pairs)


def test_annealing_alpha_gives_mmberts_published_mix():
    fields = MMBERT.split()
    languages, first, second = fields[::3], np.array(fields[1::3], float), np.array(fields[2::3], float)
    assert len(languages) == 59
    text = dict(zip(languages, first ** (1 / 0.7)))  # the corpus that alpha 0.7 turns into the first phase's mix
    phases = ({"steps": 60, "alpha": 0.7}, {"steps": 40, "alpha": 0.5})
    pretrain, extension = curriculum.resolve(config(TASKS, steps=100, curriculum=phases), languages)
    np.testing.assert_allclose(list(pretrain.shares(text, 1, {}).values()), first / first.sum(), rtol=1e-9)
    mixed = np.array(list(extension.shares(text, 1, {}).values()))
    distance = np.abs(mixed - second / second.sum()).sum() / 2
    assert distance == pytest.approx(0.0021, abs=5e-5)
    assert np.abs(first / first.sum() - second / second.sum()).sum() / 2 > 0.1  # without annealing


def test_without_phases_the_run_is_one():
    (phase,) = resolve(steps=77, mixing={"alpha": 0.3}, model={"rope_theta": 5e4})
    assert (phase.start_step, phase.stop_step, phase.languages) == (0, 77, LANGUAGES)
    assert (phase.strategy, phase.alpha, phase.rope_theta) == ("alpha", 0.3, 5e4)
    assert phase.mask_rate("mlm", 0.15) == 0.15 and phase.length("mlm", "text", 512) == 512


def test_phases_follow_each_other_and_keep_what_they_do_not_change():
    phases = resolve(
        {"steps": 60, "languages": ("hi", "de"), "mask_rate": 0.3},
        {"steps": 30, "alpha": 0.3, "length": 64, "rope_theta": 1e6},
        {"steps": 10, "length": {"rank": 9, "mlm": 32}, "mask_rate": {"mlm": 0.05}},
    )
    assert [(phase.index, phase.start_step, phase.stop_step) for phase in phases] == [
        (0, 0, 60),
        (1, 60, 90),
        (2, 90, 100),
    ]
    assert [phase.languages for phase in phases] == [("de", "hi"), LANGUAGES, LANGUAGES]
    assert [phase.alpha for phase in phases] == [0.5, 0.3, 0.5]
    assert [phase.length("mlm", "text", 16) for phase in phases] == [16, 64, 32]
    assert [phase.length("rank", "pairs", 8) for phase in phases] == [8, 8, 9]  # a plain number is for text
    assert [phase.mask_rate("mlm", 0.2) for phase in phases] == [0.3, 0.2, 0.05]
    assert [phase.rope_theta for phase in phases] == [160_000, 1e6, 160_000]
    assert [curriculum.at(phases, step).index for step in (0, 59, 60, 89, 90, 99, 5000)] == [0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="before"):
        curriculum.at(phases, -1)


def test_a_key_means_its_strategy():
    phases = resolve(
        {"steps": 40, "rates": {"de": 1, "en": 1, "hi": 2}}, {"steps": 30, "unimax_epochs": 2}, {"steps": 30}
    )
    assert [phase.strategy for phase in phases] == ["explicit", "unimax", "alpha"]


def test_explicit_rates_need_not_sum_to_one():
    (phase,) = resolve(mixing={"strategy": "explicit", "rates": {"de": 3, "en": 1, "hi": 0, "de-en": 5}})
    assert phase.shares({"de": 10, "en": 10, "hi": 10}, 1, {}) == {"de": 0.75, "en": 0.25, "hi": 0}
    assert phase.shares({"de-en": 10}, 1, {}) == {"de-en": 1}
    with pytest.raises(UserError, match="no rate for 'de-hi'; did you mean 'de"):
        phase.shares({"de-hi": 10}, 1, {})
    with pytest.raises(UserError, match="all 0"):
        phase.shares({"hi": 10}, 1, {})


def test_unimax_counts_repetitions_over_the_whole_run():
    (phase,) = resolve({"steps": 100, "unimax_epochs": 2})
    assert phase.shares({"de": 100, "en": 10}, 120, {}) == pytest.approx({"de": 100 / 120, "en": 20 / 120})
    assert phase.shares({"de": 100, "en": 10}, 120, {"en": 15}) == pytest.approx({"de": 115 / 120, "en": 5 / 120})
    assert phase.shares({"de": 100, "en": 10}, 120, {"en": 30}) == {"de": 1, "en": 0}
    with pytest.raises(UserError, match="leaves 220.*raise mixing.unimax_epochs"):
        phase.shares({"de": 100, "en": 10}, 221, {})


BAD = [
    (({"steps": 90},), "take 90 steps, but the run has 100.*last phase's steps to 100"),
    (({"steps": 60}, {"steps": 60}), "take 120 steps.*last phase's steps to 40"),
    (({"languages": ("de",)},), "has no 'steps'"),
    (({"steps": 0},), "steps is 0"),
    (({"steps": 99.5},), "steps is 99.5. Remedy: use a whole number from 1"),
    (({"steps": 100, "maskrate": 0.1},), "unknown key 'maskrate'; did you mean 'mask_rate'"),
    (({"steps": 100, "languages": ("fr",)},), "language 'fr' is not in the run"),
    (({"steps": 100, "strategy": "unimx"},), "strategy is 'unimx'; did you mean 'unimax'"),
    (({"steps": 100, "strategy": "unimax", "alpha": 0.5},), "unimax, which has no use for 'alpha'"),
    (({"steps": 100, "rates": {"de": 1}, "alpha": 0.5},), "no use for"),
    (({"steps": 100, "rates": {"de": 1, "fr": 1}},), "rates name 'fr'"),
    (({"steps": 100, "rates": {"de": -1}},), "rates.de is -1"),
    (({"steps": 100, "alpha": -0.1},), "alpha is -0.1"),
    (({"steps": 100, "alpha": "0.5"},), "alpha is '0.5'"),
    (({"steps": 100, "unimax_epochs": 0},), "unimax_epochs is 0. Remedy: use a number above 0"),
    (({"steps": 100, "mask_rate": 1.5},), "mask_rate is 1.5. Remedy: use a number above 0 to 1"),
    (({"steps": 100, "mask_rate": {"mlx": 0.5}},), "names the unknown task 'mlx'; did you mean 'mlm'"),
    (({"steps": 100, "length": 1},), "length is 1"),
    (({"steps": 100, "rope_theta": float("inf")},), "rope_theta is inf"),
]


@pytest.mark.parametrize("phases, message", BAD, ids=[message for _, message in BAD])
def test_invalid_phases_are_refused(phases, message):
    with pytest.raises(UserError, match=message) as error:
        resolve(*phases)
    assert "\n" not in str(error.value)
