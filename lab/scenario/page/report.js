"use strict";
const ZOOMS = [1, 2, 4, 8, 16, 32, 64];
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600];

function setUp(timeline) {
  const scroll = timeline.querySelector(".scroll"), track = timeline.querySelector(".track");
  const axis = track.querySelector(".axis"), cursor = track.querySelector(".cursor"), detail = timeline.querySelector(".detail");
  const length = Number(timeline.dataset.length) || 1;
  const rows = [...timeline.parentElement.querySelectorAll("tr[data-at]")];
  let zoom = 1, current = -1;

  // A label every hundred pixels or so, as fine as the zoom asks for, and only around what is in sight.
  function ticks() {
    const perSecond = track.clientWidth / length, step = STEPS.find((each) => each * perSecond >= 80) || 7200;
    const from = Math.max(0, Math.floor((scroll.scrollLeft - 400) / perSecond / step));
    const to = Math.min(Math.floor(length / step + 1e-9), Math.ceil((scroll.scrollLeft + scroll.clientWidth + 400) / perSecond / step));
    axis.replaceChildren();
    for (let n = from; n <= to; n += 1) {
      const tick = document.createElement("i");
      tick.style.left = (100 * n * step) / length + "%";
      tick.textContent = Number((n * step).toFixed(2)) + " s";
      axis.append(tick);
    }
  }
  function setZoom(wanted, at) {
    const place = at === undefined ? scroll.clientWidth / 2 : at, share = (scroll.scrollLeft + place) / track.clientWidth;
    zoom = Math.min(64, Math.max(1, wanted));
    track.style.setProperty("--zoom", zoom);
    track.dataset.zoom = ZOOMS.filter((each) => each <= zoom).join(" ");
    scroll.scrollLeft = share * track.clientWidth - place;
    ticks();
  }
  function show(number, focusRow) {
    if (!rows[number]) return;
    if (rows[current]) rows[current].classList.remove("on");
    current = number;
    const row = rows[number], at = Number(row.dataset.at) / length;
    row.classList.add("on");
    timeline.querySelectorAll(".pin.on").forEach((pin) => pin.classList.remove("on"));
    timeline.querySelectorAll('.pin[href="#' + row.id + '"]').forEach((pin) => pin.classList.add("on"));
    cursor.hidden = false;
    cursor.style.left = 100 * at + "%";
    const x = at * track.clientWidth - scroll.scrollLeft;
    if (x < 20 || x > scroll.clientWidth - 60) scroll.scrollLeft = at * track.clientWidth - scroll.clientWidth / 2;
    const cells = [...row.cells].map((cell) => cell.textContent);
    detail.textContent = cells[0] + " s, " + cells.slice(1).filter(Boolean).join(" · ");
    if (focusRow) timeline.scrollIntoView({ block: "nearest" });
  }
  const deeds = {
    in: () => setZoom(zoom * 2), out: () => setZoom(zoom / 2), all: () => setZoom(1),
    next: () => show(Math.min(rows.length - 1, current + 1)), previous: () => show(Math.max(0, current - 1)),
    left: () => { scroll.scrollLeft -= scroll.clientWidth / 6; }, right: () => { scroll.scrollLeft += scroll.clientWidth / 6; },
    first: () => { scroll.scrollLeft = 0; }, last: () => { scroll.scrollLeft = track.clientWidth; },
  };
  const keys = { "+": "in", "=": "in", "-": "out", 0: "all", n: "next", p: "previous", ArrowLeft: "left", ArrowRight: "right", Home: "first", End: "last" };
  timeline.querySelector(".tools").hidden = false;
  timeline.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => deeds[button.dataset.do]()));
  scroll.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    deeds[keys[event.key]]();
  });
  scroll.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    setZoom(zoom * (event.deltaY < 0 ? 1.25 : 0.8), event.clientX - scroll.getBoundingClientRect().left);
  }, { passive: false });
  scroll.addEventListener("scroll", () => requestAnimationFrame(ticks));
  let grip = null;
  scroll.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && event.button === 0) grip = event.clientX + scroll.scrollLeft; });
  addEventListener("pointermove", (event) => { if (grip !== null) scroll.scrollLeft = grip - event.clientX; });
  addEventListener("pointerup", () => { grip = null; });
  track.addEventListener("dragstart", (event) => event.preventDefault());
  track.addEventListener("click", (event) => {
    const pin = event.target.closest(".pin");
    if (pin) { event.preventDefault(); show(rows.findIndex((row) => "#" + row.id === pin.getAttribute("href"))); }
  });
  rows.forEach((row, number) => row.addEventListener("click", () => show(number, true)));
  addEventListener("resize", ticks);
  addEventListener("beforeprint", () => setZoom(1));
  ticks();
}

document.querySelectorAll(".timeline").forEach(setUp);
document.querySelectorAll(".copy").forEach((button) => {
  if (!navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", () => navigator.clipboard.writeText(button.previousElementSibling.textContent)
    .then(() => { button.textContent = "copied"; }, () => { button.hidden = true; }));
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
