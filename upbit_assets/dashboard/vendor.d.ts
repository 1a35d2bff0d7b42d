// What is used of the libraries that draw, which come built: what is handed to them isn't checked.
export const createChart: any, CandlestickSeries: any, HistogramSeries: any, LineSeries: any; // Lightweight Charts
export const CrosshairMode: any, LineType: any;
export const init: any; // Apache ECharts
