"""Families of languages that the report groups by, if ``config.families`` does not name them: branches as Glottolog has them."""

BRANCHES = {
    "Germanic": "en de nl sv da no nb nn is fo af yi lb fy li sco nds gsw bar",
    "Romance": "fr es pt it ro ca gl oc ast la an wa vec lmo scn sc fur pms ht co",
    "Slavic": "ru uk be pl cs sk bg sr hr bs sl mk sh szl hsb dsb",
    "Baltic": "lt lv ltg sgs",
    "Celtic": "ga gd cy br gv kw",
    "Greek, Albanian, Armenian": "el sq hy hyw",
    "Indo-Aryan": "hi bn mr gu pa ne si ur or as sd sa mai bho ks dv awa mag hne sat rom",
    "Iranian": "fa ps ku ckb tg kmr prs os",
    "Dravidian": "ta te ml kn tcy",
    "Uralic": "fi hu et se sme vro mhr myv kv udm",
    "Turkic": "tr az kk uz ky tk tt ba ug cv sah azb crh",
    "Mongolic and Tungusic": "mn bxr xal",
    "Japonic and Koreanic": "ja ko",
    "Sino-Tibetan": "zh yue cmn my bo dz wuu lzh nan mni",
    "Tai-Kadai": "th lo shn za",
    "Austroasiatic": "vi km",
    "Austronesian": "id ms jv su tl fil ceb ilo war mg mi sm haw to fj min ban ace pag",
    "Semitic": "ar he am ti mt arz ary arb apc acm",
    "Cushitic, Chadic and Berber": "so om ha kab tzm ber",
    "Niger-Congo": "sw yo ig zu xh sn st tn nso ny rw rn ln lg ts ss ve wo ff bm ak tw ee fon kg ki lua luo nyn tum bem umb kmb",
    "Kartvelian": "ka xmf",
    "Americas": "qu ay gn nah nv kl chr yua",
    "other": "eu eo tpi ia io vo",
}
FAMILY_OF = {code: family for family, codes in BRANCHES.items() for code in codes.split()}


def family_of(code: str) -> str:
    """Return the branch of a language by its code, of which the part before a hyphen or underscore counts."""
    return FAMILY_OF.get(code.replace("_", "-").split("-")[0], "unknown family")
