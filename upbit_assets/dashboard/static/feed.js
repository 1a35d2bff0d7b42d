// Where the figures come from: the JSON API, and the stream that says what was just written.

let skew = 0; // the server's clock less ours, ms

export const serverNow = () => Date.now() + skew;

export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON at a path of the API; a Failure says what the server said (status 0: there was no server). */
export async function get(path, query = {}) {
  let response;
  try {
    response = await fetch(`${path}?${new URLSearchParams(query)}`);
  } catch {
    throw new Failure(0, "");
  }
  if (response.headers.has("date")) skew = Date.parse(response.headers.get("date")) - Date.now();
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Failure(response.status, answer.error?.message ?? response.statusText);
  return answer;
}

/** All the rows of a path of the API, page after page. */
export async function getAll(path, query = {}) {
  const rows = [];
  for (let next = { path, query }; next; ) {
    const answer = await get(next.path, next.query);
    rows.push(...answer.rows);
    const url = answer.next && new URL(answer.next, location.origin);
    next = url && { path: url.pathname, query: Object.fromEntries(url.searchParams) };
  }
  return rows;
}

/**
 * Tells of what is written. A browser opens six streams to a server at most, so a page that nobody sees lets go of
 * its own, and begins anew when it is seen again.
 */
export function listen({ connected, lost, database, written }) {
  let source = null;
  const open = () => {
    source = new EventSource("/api/events");
    source.onopen = connected;
    source.onerror = () => {
      lost();
      if (source.readyState === EventSource.CLOSED) {
        source.close();
        setTimeout(() => document.hidden || open(), 3000);
      }
    };
    source.addEventListener("database", (event) => database(JSON.parse(event.data).up));
    source.addEventListener("asset_written", (event) => written(JSON.parse(event.data)));
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source?.close();
    else open();
  });
  if (!document.hidden) open();
}
