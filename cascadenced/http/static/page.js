// The page is complete without this. With it, the page fetches itself again whenever the log grows, and shows times
// as how long ago they are, or in how long they will be.

const PAUSE_MS = 1000; // between two refreshes at least, however fast the log grows
const live = document.querySelector("[data-live]");
let source = null;
let refreshing = 0; // the timer, 0 when none is set
let last = 0;
let anew = false; // whether the stream must not begin where the page was made

function show(word) {
  live.textContent = word;
  live.dataset.live = word;
}

// ── times ──

const ago = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function showTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const past = (Date.now() - at) / 1000;
    const seconds = Math.abs(past);
    const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? ["second", 1];
    time.title ||= `${time.textContent} · here ${at.toLocaleString()}`;
    time.textContent = seconds < 1 ? "now" : ago.format(-Math.sign(past) * Math.floor(seconds / size), unit);
  }
}

// ── refreshing ──

function refreshSoon() {
  refreshing ||= setTimeout(refresh, Math.max(0, last + PAUSE_MS - Date.now()));
}

async function refresh() {
  // What somebody is about to copy stays where it is.
  if (!getSelection().isCollapsed) {
    refreshing = setTimeout(refresh, PAUSE_MS);
    return;
  }
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focused = document.activeElement?.getAttribute("href");
      document.querySelector("main").replaceWith(page.querySelector("main"));
      showTimes();
      if (!document.querySelector("main").dataset.types) {
        rest(); // the run has ended, nothing will change any more
        show("");
      }
      if (focused) document.querySelector(`main a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    }
  } catch {
    // The daemon is away; the stream says so, and comes back when it does.
  }
  last = Date.now();
  refreshing = 0;
}

// ── following the log ──

function follow() {
  const main = document.querySelector("main");
  if (source || document.hidden || !main.dataset.types) return;
  const after = main.dataset.after;
  source = new EventSource(after && !anew ? `/events?after=${after}` : "/events");
  source.onopen = () => { show("live"); refreshSoon(); };
  source.onerror = () => {
    show("reconnecting");
    // Closed for good: the log is another one, or there are too many streams. Begin anew, later.
    if (source?.readyState === EventSource.CLOSED) {
      source = null;
      anew = true;
      setTimeout(follow, 5000);
    }
  };
  for (const type of main.dataset.types.split(" ")) source.addEventListener(type, refreshSoon);
}

function rest() {
  source?.close(); // browsers allow few connections to one server; a hidden page needs none
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
addEventListener("pagehide", rest);
addEventListener("pageshow", follow);
setInterval(showTimes, 5000);
showTimes();
follow();
