"""A language that a row or an option names, by any of its codes and names, is found among those a model has.

Tried before and after, among Whisper's 100 (find → code): jv, jav, Javanese, `<|jv|>`, jv_ID: none, now jw; jw, iw, he,
in, ji, nb, nob, mo, cmn, fil, pes, zsm: found, and are. Bangla, Slovene, Kiswahili, Azeri, Dari, Cambodian, Laotian,
māori, Putonghua, Brazilian Portuguese, Egyptian Arabic, arz, prs, `Spanish; Castilian`: none, now found. All names
of openai-whisper, ISO 639-1, -2 and -3 (of the same 100) and FLEURS: three not found, now all. The 57 languages of
vLLM's interface, Voxtral's 9, Kimi's 11, Granite's 6: all found before and after. Klingon, en.US, nn where a model has
only no: none, as before.
"""

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from asrbatch.languages import find

FLEURS = """
    af_za am_et ar_eg as_in az_az be_by bg_bg bn_in bs_ba ca_es cmn_hans_cn cs_cz cy_gb da_dk de_de el_gr en_us es_419
    et_ee fa_ir fi_fi fil_ph fr_fr gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id is_is it_it ja_jp jv_id ka_ge
    kk_kz km_kh kn_in ko_kr lb_lu ln_cd lo_la lt_lt lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np
    nl_nl oc_fr pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj
    th_th tr_tr uk_ua ur_pk uz_uz vi_vn yo_ng yue_hant_hk
"""


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("jw", ("jv", "jav", "jw", "Javanese", "<|jv|>", "<|jw|>", "jv_ID", "JV-Latn")),
        ("he", ("iw", "heb", "Hebrew")),
        ("id", ("in", "ind", "Bahasa Indonesia")),
        ("yi", ("ji", "yid", "ydd")),
        ("no", ("nb", "nob", "nor", "Norwegian Bokmål", "nb_NO")),
        ("ro", ("mo", "rum", "Moldovan", "Romanian; Moldavian; Moldovan")),
        ("zh", ("cmn", "chi", "Mandarin", "zh-Hant", "Putonghua", "Chinese (Simplified)")),
        ("tl", ("fil", "Filipino", "Pilipino")),
        ("fa", ("pes", "per", "Farsi", "prs", "Dari")),
        ("ms", ("zsm", "zlm", "may", "Bahasa Melayu")),
        ("ar", ("arb", "arz", "ary", "Egyptian Arabic", "Modern Standard Arabic")),
        ("sw", ("swh", "Kiswahili")),
        ("bn", ("Bangla", "ben")),
        ("sl", ("Slovene", "slv")),
        ("km", ("Central Khmer", "Cambodian")),
        ("mi", ("māori", "mao")),
        ("es", ("Spanish; Castilian", "es-419")),
        ("pt", ("Brazilian Portuguese", "pt-BR")),
        (None, ("Klingon", "tlh", "en.US", "auto", "")),
    ],
)
def test_whisper_is_told_its_own_code(code, written):
    assert {name: find(name, LANGUAGES) for name in written} == dict.fromkeys(written, code)


def test_every_name_of_whispers_languages_is_known():
    assert {name: find(name.title(), LANGUAGES) for name in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE
    assert {code: find(code.upper(), LANGUAGES) for code in LANGUAGES} == {code: code for code in LANGUAGES}
    assert [code for code in FLEURS.split() if find(code, LANGUAGES) is None] == []


def test_every_language_of_the_models_of_the_interface_is_known():
    from vllm.model_executor.models.whisper_utils import ISO639_1_SUPPORTED_LANGS

    codes = ISO639_1_SUPPORTED_LANGS
    assert {name: find(name, codes) for name in codes.values()} == {name: code for code, name in codes.items()}


def test_a_model_with_codes_of_its_own_kind():
    """Regions, three letters, old codes, names; what stands in its list as it was written comes first."""
    known = ("en-US", "deu", "iw", "norwegian", "nn", "tl", "fil")
    expected = {"en": "en-US", "German": "deu", "he": "iw", "nb": "norwegian", "nn": "nn", "fil": "fil", "tl": "tl"}
    assert {written: find(written, known) for written in expected} == expected
    assert find("nn", ("no",)) is None
