"""The coins listed on the simulated exchange: well-known ones first, then invented ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

from upbit_assets.sandbox.noise import key

QUOTES = ("KRW", "BTC", "USDT")


@dataclass(frozen=True, slots=True)
class Coin:
    """`value` is the typical price in KRW; `volatility` is relative to a typical coin's 100."""

    code: str
    korean_name: str
    english_name: str
    value: Decimal
    volatility: int


KRW = Coin("KRW", "원", "Won", Decimal(1), 0)
VOLATILITY = {"BTC": 60, "USDT": 4, "USDC": 4, "USD1": 4, "ETH": 80}

KNOWN = """
BTC|비트코인|Bitcoin|91200000
USDT|테더|Tether|1420
ETH|이더리움|Ethereum|3120000
XRP|엑스알피(리플)|XRP|1890
SOL|솔라나|Solana|128000
DOGE|도지코인|Dogecoin|152
PEPE|페페|Pepe|0.00852
SHIB|시바이누|Shiba Inu|0.0184
ADA|에이다|Cardano|655
TRX|트론|TRON|398
LINK|체인링크|Chainlink|18900
AVAX|아발란체|Avalanche|28400
SUI|수이|Sui|2350
XLM|스텔라루멘|Stellar|335
HBAR|헤데라|Hedera|211
BCH|비트코인캐시|Bitcoin Cash|742000
DOT|폴카닷|Polkadot|4310
ETC|이더리움클래식|Ethereum Classic|21200
NEAR|니어프로토콜|NEAR Protocol|3050
UNI|유니스왑|Uniswap|9120
AAVE|에이브|Aave|264000
APT|앱토스|Aptos|5240
ARB|아비트럼|Arbitrum|452
ONDO|온도파이낸스|Ondo Finance|861
WLD|월드코인|Worldcoin|1180
ENA|에테나|Ethena|398
SEI|세이|Sei|261
TRUMP|오피셜트럼프|OFFICIAL TRUMP|9850
BONK|봉크|Bonk|0.0191
VIRTUAL|버추얼프로토콜|Virtuals Protocol|1460
PIEVERSE|파이버스|Pieverse|812
BIGTIME|빅타임|Big Time|58.4
MOODENG|무뎅|Moo Deng|121
PENGU|펏지펭귄|Pudgy Penguins|21.3
W|웜홀|Wormhole|103
T|쓰레스홀드|Threshold|19.6
0G|제로지|0G|2870
2Z|더블제로|DoubleZero|214
1INCH|1인치네트워크|1inch Network|312
FCT2|피르마체인|FirmaChain|54.1
USD1|월드리버티파이낸셜유에스디|World Liberty Financial USD|1421
META2|메타디움|Metadium|24.8
USDC|유에스디코인|USDC|1420
STX|스택스|Stacks|742
ATOM|코스모스|Cosmos|5320
ALGO|알고랜드|Algorand|286
SAND|샌드박스|The Sandbox|312
MANA|디센트럴랜드|Decentraland|341
AXS|엑시인피니티|Axie Infinity|2310
VET|비체인|VeChain|27.6
GRT|더그래프|The Graph|98.2
FLOW|플로우|Flow|412
XTZ|테조스|Tezos|884
THETA|쎄타토큰|Theta Network|781
EGLD|멀티버스엑스|MultiversX|16800
IMX|이뮤터블엑스|Immutable|542
CRO|크로노스|Cronos|198
CHZ|칠리즈|Chiliz|49.7
BLUR|블러|Blur|74.3
MASK|마스크네트워크|Mask Network|1290
ZRO|레이어제로|LayerZero|2080
STRK|스타크넷|Starknet|152
ZETA|제타체인|ZetaChain|179
PYTH|피스네트워크|Pyth Network|132
JUP|주피터|Jupiter|521
JTO|지토|Jito|1710
TIA|셀레스티아|Celestia|1660
AKT|아카시네트워크|Akash Network|1180
ARKM|아캄|Arkham|612
ENS|이더리움네임서비스|Ethereum Name Service|21800
COMP|컴파운드|Compound|54200
BAT|베이직어텐션토큰|Basic Attention Token|258
ZRX|제로엑스|0x Protocol|281
ANKR|앵커|Ankr|17.2
STORJ|스토리지|Storj|284
GLM|골렘|Golem|311
KNC|카이버네트워크|Kyber Network|398
WAXP|왁스|WAX|21.4
QTUM|퀀텀|Qtum|2640
NEO|네오|NEO|7120
GAS|가스|GAS|3550
ICX|아이콘|ICON|134
ONT|온톨로지|Ontology|151
ZIL|질리카|Zilliqa|12.3
IOST|아이오에스티|IOST|3.72
IOTA|아이오타|IOTA|221
SC|시아코인|Siacoin|3.41
TFUEL|쎄타퓨엘|Theta Fuel|39.8
HIVE|하이브|Hive|231
STEEM|스팀|Steem|162
POWR|파워렛저|Powerledger|198
LSK|리스크|Lisk|421
ARK|아크|Ark|512
ARDR|아더|Ardor|98.4
STRAX|스트라티스|Stratis|42.1
MTL|메탈|Metal DAO|812
AERGO|아르고|Aergo|121
SIGN|사인|Sign|61.7
BORA|보라|BORA|84.1
MLK|밀크|MiL.k|178
CARV|카브|CARV|364
GAME2|게임빌드|GameBuild|2.46
BTT|비트토렌트|BitTorrent|0.000782
XEC|이캐시|eCash|0.0221
CELO|셀로|Celo|391
CKB|너보스|Nervos Network|5.82
KAVA|카바|Kava|502
AUCTION|바운스토큰|Bounce|11900
SAFE|세이프|Safe|498
DRIFT|드리프트|Drift|712
ORCA|오르카|Orca|2890
MOVE|무브먼트|Movement|143
ANIME|애니메코인|Animecoin|18.9
LAYER|솔레이어|Solayer|671
KAITO|카이토|Kaito|1390
BERA|베라체인|Berachain|2540
IP|스토리|Story|5620
WAL|월러스|Walrus|498
INIT|이니시아|Initia|432
SOPH|소폰|Sophon|38.2
NXPC|넥스페이스|NEXPACE|791
A|볼타|Vaulta|612
"""

SYLLABLES = """
AR:아르 BO:보 CA:카 DE:데 EL:엘 FI:피 GO:고 HA:하 IN:인 JO:조 KI:키 LU:루
MI:미 NO:노 OR:오르 PA:파 RI:리 SO:소 TE:테 VI:비 WA:와 YU:유 ZE:제 XA:자
"""


def known_coins() -> Iterator[Coin]:
    for line in KNOWN.split("\n")[1:-1]:
        code, korean, english, value = line.split("|")
        yield Coin(code, korean, english, Decimal(value), VOLATILITY.get(code, 90 + key(code) % 50))


def invented_coins() -> Iterator[Coin]:
    codes = {coin.code for coin in known_coins()}
    syllables = [pair.split(":") for pair in SYLLABLES.split()]
    words = len(syllables) ** 3
    for n in range(words):
        # 5003 is coprime with the number of words: each one comes up exactly once, in no apparent order
        word, digits = n * 5003 % words, []
        for _ in range(3 if n % 3 else 2):
            word, digit = divmod(word, len(syllables))
            digits.append(syllables[digit])
        code = "".join(latin for latin, _ in digits)
        if code not in codes:
            codes.add(code)
            yield invent(code, "".join(korean for _, korean in digits))


def invent(code: str, korean: str) -> Coin:
    draw = key(code)
    value = Decimal(100 + draw % 900).scaleb(draw // 900 % 4 - 2)
    return Coin(code, korean, code.capitalize(), value, 90 + draw % 50)


def listed(quote: str, count: int) -> list[Coin]:
    """The `count` busiest coins that trade against `quote`, busiest first."""
    minimum = {"KRW": Decimal(0), "BTC": Decimal(100), "USDT": Decimal("0.001")}[quote]
    excluded = {"KRW": (), "BTC": ("BTC", "USDT"), "USDT": ("USDT",)}[quote]

    def all_coins() -> Iterator[Coin]:
        yield from known_coins()
        yield from invented_coins()

    eligible = (coin for coin in all_coins() if coin.value >= minimum and coin.code not in excluded)
    return list(islice(eligible, count))


def split(count: int) -> dict[str, int]:
    """How many of `count` markets each quote currency gets, in the proportions 289 KRW, 328 BTC and 238 USDT."""
    krw = max(2, round(count * 289 / 855))
    btc = round((count - krw) * 328 / 566)
    return dict(zip(QUOTES, (krw, btc, count - krw - btc), strict=True))
