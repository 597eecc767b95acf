(() => {
  const PERIOD_MS = 2000, DEADLINE_MS = 15000;
  const lost = document.getElementById("lost");
  const swap = (shown, fresh) => {
    if (shown.innerHTML === fresh.innerHTML) return;
    const focused = shown.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    shown.innerHTML = fresh.innerHTML;
    shown.className = fresh.className;
    if (focused) [...shown.querySelectorAll("a")].find(a => a.getAttribute("href") === focused)?.focus();
  };
  const poll = async () => {
    try {
      const answer = await fetch("/", {cache: "no-store", signal: AbortSignal.timeout(DEADLINE_MS)});
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const fresh of page.querySelectorAll("[data-part]")) swap(document.getElementById(fresh.id), fresh);
      document.title = page.title;
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
  };
  let running = false;
  const turn = async () => {
    if (running || document.hidden) return;
    running = true;
    await poll();
    running = false;
  };
  const loop = async () => {
    const begun = performance.now();
    await turn();
    setTimeout(loop, Math.max(0, PERIOD_MS - (performance.now() - begun)));
  };
  setTimeout(loop, PERIOD_MS);
  document.addEventListener("visibilitychange", turn);
})();
