"""A country as chart files name it (code, name, file name) in, the project's region code (ISO 3166 or GLOBAL) out."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# ISO 3166-1: alpha-2, alpha-3, short English names (| separates spellings in use).
_COUNTRIES = """
AD AND Andorra;AE ARE United Arab Emirates|UAE;AF AFG Afghanistan;AG ATG Antigua and Barbuda;AI AIA Anguilla;
AL ALB Albania;AM ARM Armenia;AO AGO Angola;AQ ATA Antarctica;AR ARG Argentina;AS ASM American Samoa;AT AUT Austria;
AU AUS Australia;AW ABW Aruba;AX ALA Aland Islands;AZ AZE Azerbaijan;BA BIH Bosnia and Herzegovina|Bosnia;
BB BRB Barbados;BD BGD Bangladesh;BE BEL Belgium;BF BFA Burkina Faso;BG BGR Bulgaria;BH BHR Bahrain;BI BDI Burundi;
BJ BEN Benin;BL BLM Saint Barthelemy;BM BMU Bermuda;BN BRN Brunei|Brunei Darussalam;
BO BOL Bolivia|Plurinational State of Bolivia|Bolivia Plurinational State of;BQ BES Bonaire Sint Eustatius and Saba;
BR BRA Brazil|Brasil;BS BHS Bahamas|The Bahamas;BT BTN Bhutan;BV BVT Bouvet Island;BW BWA Botswana;
BY BLR Belarus;BZ BLZ Belize;CA CAN Canada;CC CCK Cocos Keeling Islands;
CD COD Democratic Republic of the Congo|Congo Kinshasa|Congo The Democratic Republic of the;
CF CAF Central African Republic;CG COG Congo|Republic of the Congo;CH CHE Switzerland;
CI CIV Cote d'Ivoire|Ivory Coast;CK COK Cook Islands;CL CHL Chile;CM CMR Cameroon;CN CHN China;CO COL Colombia;
CR CRI Costa Rica;CU CUB Cuba;CV CPV Cabo Verde|Cape Verde;CW CUW Curacao;CX CXR Christmas Island;CY CYP Cyprus;
CZ CZE Czechia|Czech Republic;DE DEU Germany;DJ DJI Djibouti;DK DNK Denmark;DM DMA Dominica;
DO DOM Dominican Republic;DZ DZA Algeria;EC ECU Ecuador;EE EST Estonia;EG EGY Egypt;EH ESH Western Sahara;
ER ERI Eritrea;ES ESP Spain;ET ETH Ethiopia;FI FIN Finland;FJ FJI Fiji;FK FLK Falkland Islands;
FM FSM Micronesia|Micronesia Federated States of;FO FRO Faroe Islands;FR FRA France;GA GAB Gabon;
GB GBR United Kingdom|UK|Great Britain|United Kingdom of Great Britain and Northern Ireland;GD GRD Grenada;
GE GEO Georgia;GF GUF French Guiana;GG GGY Guernsey;GH GHA Ghana;GI GIB Gibraltar;GL GRL Greenland;
GM GMB Gambia|The Gambia;GN GIN Guinea;GP GLP Guadeloupe;GQ GNQ Equatorial Guinea;GR GRC Greece;
GS SGS South Georgia and the South Sandwich Islands;GT GTM Guatemala;GU GUM Guam;GW GNB Guinea-Bissau;GY GUY Guyana;
HK HKG Hong Kong|Hong Kong SAR;HM HMD Heard Island and McDonald Islands;HN HND Honduras;HR HRV Croatia;HT HTI Haiti;
HU HUN Hungary;ID IDN Indonesia;IE IRL Ireland;IL ISR Israel;IM IMN Isle of Man;IN IND India;
IO IOT British Indian Ocean Territory;IQ IRQ Iraq;IR IRN Iran|Iran Islamic Republic of;IS ISL Iceland;IT ITA Italy;
JE JEY Jersey;JM JAM Jamaica;JO JOR Jordan;JP JPN Japan;KE KEN Kenya;KG KGZ Kyrgyzstan;KH KHM Cambodia;
KI KIR Kiribati;KM COM Comoros;KN KNA Saint Kitts and Nevis;KP PRK North Korea|Korea Democratic People's Republic of;
KR KOR South Korea|Korea|Korea Republic of|Republic of Korea;KW KWT Kuwait;KY CYM Cayman Islands;KZ KAZ Kazakhstan;
LA LAO Laos|Lao People's Democratic Republic;LB LBN Lebanon;LC LCA Saint Lucia;LI LIE Liechtenstein;LK LKA Sri Lanka;
LR LBR Liberia;LS LSO Lesotho;LT LTU Lithuania;LU LUX Luxembourg;LV LVA Latvia;LY LBY Libya;MA MAR Morocco;
MC MCO Monaco;MD MDA Moldova|Moldova Republic of|Republic of Moldova;ME MNE Montenegro;MF MAF Saint Martin;
MG MDG Madagascar;MH MHL Marshall Islands;MK MKD North Macedonia|Macedonia;ML MLI Mali;MM MMR Myanmar;MN MNG Mongolia;
MO MAC Macao|Macau;MP MNP Northern Mariana Islands;MQ MTQ Martinique;MR MRT Mauritania;MS MSR Montserrat;MT MLT Malta;
MU MUS Mauritius;MV MDV Maldives;MW MWI Malawi;MX MEX Mexico;MY MYS Malaysia;MZ MOZ Mozambique;NA NAM Namibia;
NC NCL New Caledonia;NE NER Niger;NF NFK Norfolk Island;NG NGA Nigeria;NI NIC Nicaragua;
NL NLD Netherlands|The Netherlands|Holland;NO NOR Norway;NP NPL Nepal;NR NRU Nauru;NU NIU Niue;NZ NZL New Zealand;
OM OMN Oman;PA PAN Panama;PE PER Peru;PF PYF French Polynesia;PG PNG Papua New Guinea;
PH PHL Philippines|The Philippines;PK PAK Pakistan;
PL POL Poland;PM SPM Saint Pierre and Miquelon;PN PCN Pitcairn;PR PRI Puerto Rico;
PS PSE Palestine|State of Palestine;PT PRT Portugal;PW PLW Palau;PY PRY Paraguay;QA QAT Qatar;RE REU Reunion;
RO ROU Romania;RS SRB Serbia;RU RUS Russia|Russian Federation;RW RWA Rwanda;SA SAU Saudi Arabia;SB SLB Solomon Islands;
SC SYC Seychelles;SD SDN Sudan;SE SWE Sweden;SG SGP Singapore;SH SHN Saint Helena;SI SVN Slovenia;
SJ SJM Svalbard and Jan Mayen;SK SVK Slovakia;SL SLE Sierra Leone;SM SMR San Marino;SN SEN Senegal;SO SOM Somalia;
SR SUR Suriname;SS SSD South Sudan;ST STP Sao Tome and Principe;SV SLV El Salvador;SX SXM Sint Maarten;
SY SYR Syria|Syrian Arab Republic;SZ SWZ Eswatini|Swaziland;TC TCA Turks and Caicos Islands;TD TCD Chad;
TF ATF French Southern Territories;TG TGO Togo;TH THA Thailand;TJ TJK Tajikistan;TK TKL Tokelau;
TL TLS Timor-Leste|East Timor;TM TKM Turkmenistan;
TN TUN Tunisia;TO TON Tonga;TR TUR Turkey|Turkiye;TT TTO Trinidad and Tobago;TV TUV Tuvalu;
TW TWN Taiwan|Taiwan Province of China;TZ TZA Tanzania|Tanzania United Republic of;UA UKR Ukraine;UG UGA Uganda;
UM UMI United States Minor Outlying Islands;US USA United States|United States of America|America;UY URY Uruguay;
UZ UZB Uzbekistan;VA VAT Vatican City|Holy See;VC VCT Saint Vincent and the Grenadines;
VE VEN Venezuela|Venezuela Bolivarian Republic of;VG VGB British Virgin Islands|Virgin Islands British;
VI VIR United States Virgin Islands|Virgin Islands US;VN VNM Vietnam|Viet Nam;VU VUT Vanuatu;WF WLF Wallis and Futuna;
WS WSM Samoa;XK XKX Kosovo;YE YEM Yemen;YT MYT Mayotte;ZA ZAF South Africa;ZM ZMB Zambia;ZW ZWE Zimbabwe
"""
_WORLD = ("GLOBAL", "WW", "WORLD", "WORLDWIDE", "GLOBALLY")
_OTHER_CODES = {"EL": "GR"}
# Written between the region and the rest of a file name.
_OFFICIAL_NAME = re.compile(r"(?:regional|viral)-([a-z]{2}|global)-(?:daily|weekly)", re.IGNORECASE)


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return re.sub(r"[\W_]+", " ", "".join(c for c in decomposed if not unicodedata.combining(c))).strip()


@cache
def _codes() -> dict[str, str]:
    known = {_plain(name): "GLOBAL" for name in _WORLD} | {_plain(k): v for k, v in _OTHER_CODES.items()}
    for entry in _COUNTRIES.replace("\n", "").split(";"):
        two, three, names = entry.split(" ", 2)
        known |= {_plain(name): two for name in (two, three, *names.split("|"))}
    return known


@cache
def region_code(text: str) -> str | None:
    """`us`, `USA`, `United States`, `Global`, … → `US`, `GLOBAL`; None where no country is known by that name."""
    return _codes().get(_plain(text))


def region_in_name(name: str) -> str | None:
    """The region that a file's name gives, in the way of the chart sites or as the one country it mentions.

    Args:
        name: a path; its folders count where the file itself names no country.

    Returns:
        The region, or None where the name mentions none, or two different ones.
    """
    official = _OFFICIAL_NAME.search(name)
    if official:
        return region_code(official[1])
    for part in reversed(re.split(r"[/\\]", name)):
        words = _plain(re.sub(r"\.\w+$", "", part)).split()
        spans = [" ".join(words[i : i + size]) for size in (4, 3, 2, 1) for i in range(len(words) - size + 1)]
        known = {span: region for span in spans if (region := region_code(span)) is not None}
        # Codes are words too ("my", "in", "no"): a full name goes before them.
        named = {region for span, region in known.items() if len(span) > 3}
        found = named or set(known.values())
        if found:
            return found.pop() if len(found) == 1 else None
    return None
