// The page's words in both languages.

const WORDS = {
  ko: {
    board: "마켓 보드", skip: "선택한 종목으로 건너뛰기", find: "종목 찾기", findHint: "종목 찾기  /",
    simulated: "모의 데이터", simulatedAbout: "오프라인 거래소가 만든 모의 데이터입니다. 실제 시세가 아닙니다.",
    top10: "거래대금 상위 10", rank: "#", market: "종목", price: "현재가", change: "전일 대비", turnover: "거래대금 24h",
    volatility: "변동성 순위", volatilityShort: "변동성", inWindow: "10분 구간의 고가·저가 폭",
    unmoved: "이 구간에서는 아직 움직인 가격이 없습니다. 다음 수집부터 순위가 나옵니다.",
    heat: "거래대금 지도", heatCaption: "넓이는 거래대금, 색은 전일 대비. 같은 내용을 표로 볼 수 있습니다.", asTable: "표로 보기",
    book: "호가", size: "잔량", spread: "스프레드", bids: "매수", asks: "매도", within: "중간가에서",
    noBook: "이 종목의 호가는 최근 하루 동안 수집되지 않았습니다.", depth: "누적 잔량",
    coverage: "수집 현황", lastDay: "최근 24시간, 10분 단위", coverageHint: "칸을 누르면 Dagster에서 그 구간이 열립니다.",
    whole: "수집", part: "일부", none: "없음", open: "수집 중", snapshots: "회 수집", rejected: "행 거부", rows: "행",
    minute: "분", hour: "시",
    span: "기간", "1h": "1시간", "6h": "6시간", "1d": "1일", "1w": "1주", "1m": "1개월",
    candles: "분봉", volume: "거래량", vwap: "VWAP", opening: "시", high: "고", low: "저", closing: "종",
    line: "이 기간에는 분봉이 없어, 10분 구간마다 마지막으로 수집한 가격을 잇습니다.", nothing: "이 기간에 수집된 데이터가 없습니다.",
    turnover24: "거래대금 24h", volume24: "거래량 24h", rankTurnover: "거래대금 순위",
    low10: "저가 10분", high10: "고가 10분", vwap10: "VWAP 10분", change24: "24시간 대비", ranked: (rank, of) => `${rank}위 / ${of}`,
    noRate: "원화 환산 환율 없음",
    kst: "모든 시각은 한국 시간(KST)", api: "API", dagster: "Dagster",
    switchLanguage: "English", themeAuto: "자동", themeDark: "어둡게", themeLight: "밝게", theme: "화면",
    colours: "색", red: "상승 빨강, 하락 파랑", green: "상승 초록, 하락 빨강",
    ago: (text) => `${text} 전`, seconds: (n) => `${n}초`, minutes: (n) => `${n}분`, hours: (n) => `${n}시간`, days: (n) => `${n}일`,
    live: "실시간", window: (text) => `${text} 구간`,
    stale: (age, at) => `수집이 멈췄습니다. 보이는 값은 ${age} 전(${at} KST)에 수집된 것입니다.`,
    down: "데이터베이스가 응답하지 않습니다. 돌아오면 저절로 이어집니다.",
    lost: "보드 서버와 연결이 끊겼습니다. 다시 연결하고 있습니다.", kept: (at) => ` 보이는 값은 ${at} KST에 수집된 것입니다.`,
    emptyTitle: "아직 수집된 데이터가 없습니다", emptyText: "첫 수집이 끝나면 이 화면이 저절로 채워집니다. 수집이 켜져 있는지는 Dagster에서 볼 수 있습니다.",
    downTitle: "데이터베이스가 응답하지 않습니다", downText: "PostgreSQL이 돌아오면 이 화면이 저절로 채워집니다.",
    recovered: "다시 실시간입니다.",
  },
  en: {
    board: "Market board", skip: "Skip to the chosen market", find: "Find a market", findHint: "Find a market  /",
    simulated: "Simulated", simulatedAbout: "Made by the offline exchange: no figure here is real.",
    top10: "Turnover top 10", rank: "#", market: "Market", price: "Price", change: "Change", turnover: "Turnover 24h",
    volatility: "Volatility ranking", volatilityShort: "Volatility", inWindow: "high to low of the 10-minute window",
    unmoved: "No price has moved in this window yet: the next snapshot brings the ranking.",
    heat: "Turnover map", heatCaption: "Area is turnover, colour is change. The same is there as a table.", asTable: "As a table",
    book: "Order book", size: "Size", spread: "Spread", bids: "Bids", asks: "Asks", within: "From mid",
    noBook: "No order book of this market was collected within a day.", depth: "Cumulative size",
    coverage: "Collection", lastDay: "last 24 hours, by 10 minutes", coverageHint: "A cell opens its window in Dagster.",
    whole: "collected", part: "in part", none: "missing", open: "filling", snapshots: " snapshots", rejected: " rows rejected", rows: " rows",
    minute: "", hour: "",
    span: "Span", "1h": "1H", "6h": "6H", "1d": "1D", "1w": "1W", "1m": "1M",
    candles: "-minute candles", volume: "Volume", vwap: "VWAP", opening: "O", high: "H", low: "L", closing: "C",
    line: "There are no candles of this time: the last price of each ten-minute window instead.", nothing: "Nothing was collected of this time.",
    turnover24: "Turnover 24h", volume24: "Volume 24h", rankTurnover: "Turnover rank",
    low10: "Low 10 min", high10: "High 10 min", vwap10: "VWAP 10 min", change24: "Against 24h ago", ranked: (rank, of) => `${rank} of ${of}`,
    noRate: "no rate to KRW",
    kst: "All times are Korean (KST)", api: "API", dagster: "Dagster",
    switchLanguage: "한국어", themeAuto: "Auto", themeDark: "Dark", themeLight: "Light", theme: "Theme",
    colours: "Colours", red: "up red, down blue", green: "up green, down red",
    ago: (text) => `${text} ago`, seconds: (n) => `${n} s`, minutes: (n) => `${n} min`, hours: (n) => `${n} h`, days: (n) => `${n} d`,
    live: "Live", window: (text) => `window ${text}`,
    stale: (age, at) => `Collection has stopped. These figures were collected ${age} ago, at ${at} KST.`,
    down: "The database does not answer. This page goes on by itself when it is back.",
    lost: "The board's server can't be reached. Trying again.", kept: (at) => ` These figures were collected at ${at} KST.`,
    emptyTitle: "Nothing has been collected yet", emptyText: "This page fills by itself when the first collection is done. Dagster shows whether collecting is on.",
    downTitle: "The database does not answer", downText: "This page fills by itself when PostgreSQL is back.",
    recovered: "Live again.",
  },
};

export const languages = Object.keys(WORDS);
export const words = (language) => WORDS[language];

/** Puts the language's words wherever the page names one. */
export function speak(language) {
  document.documentElement.lang = language;
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = WORDS[language][place.dataset.word];
}
