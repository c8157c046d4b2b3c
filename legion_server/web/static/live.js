"use strict";
// Parts of a page that follow what happens: an element with data-live="/address" is fetched again when the server
// tells of an event whose type data-on names (separated by spaces), at most once a second. Without the stream of
// events, every POLL_MS.

const LEAST_MS = 1000;
const POLL_MS = 5000;
const LONGEST_WAIT_MS = 30000;

const parts = [...document.querySelectorAll("[data-live]")].map((element) => ({
  address: element.dataset.live,
  element,
  types: (element.dataset.on || "").split(" "),
  fetchedAt: 0,
  timer: 0,
  busy: false,
  again: false,
}));

function lost(is) {
  document.getElementById("lost").hidden = !is;
}

function soon(part) {
  if (part.busy) {
    part.again = true;
  } else if (!part.timer) {
    part.timer = setTimeout(() => refresh(part), Math.max(0, part.fetchedAt + LEAST_MS - Date.now()));
  }
}

async function refresh(part) {
  part.timer = 0;
  part.busy = true;
  part.fetchedAt = Date.now();
  try {
    const answer = await fetch(part.address, { cache: "no-store", headers: { Accept: "text/html" } });
    if (answer.ok) {
      replace(part.element, await answer.text());
    }
    lost(answer.status >= 502);
  } catch {
    lost(true);
  }
  part.busy = false;
  if (part.again) {
    part.again = false;
    soon(part);
  }
}

// Where an element stands below another, to find its successor after the content was replaced.
function pathTo(root, node) {
  if (node.id) return { id: node.id };
  const steps = [];
  for (; node !== root; node = node.parentElement) {
    steps.unshift([...node.parentElement.children].indexOf(node));
  }
  return { steps };
}

function follow(root, path) {
  if (path.id) return document.getElementById(path.id);
  return path.steps.reduce((node, place) => node && node.children[place], root);
}

function replace(element, text) {
  const fresh = document.createElement("div");
  fresh.innerHTML = text;
  if (fresh.innerHTML === element.shown) return;
  const focused = element.contains(document.activeElement) && document.activeElement !== element ? document.activeElement : null;
  // What somebody is filling in stays until they are done.
  if (focused && focused.matches("input, select, textarea")) return;
  const place = focused && pathTo(element, focused);
  const open = [...element.querySelectorAll("details[open]")].map((node) => pathTo(element, node));
  const scrolled = [...element.querySelectorAll(".scroll")].map((node) => [node.scrollLeft, node.scrollTop]);
  element.shown = fresh.innerHTML;
  element.replaceChildren(...fresh.childNodes);
  for (const path of open) {
    const node = follow(element, path);
    if (node && node.localName === "details") node.open = true;
  }
  element.querySelectorAll(".scroll").forEach((node, at) => scrolled[at] && node.scrollTo(...scrolled[at]));
  const successor = place && follow(element, place);
  if (successor) successor.focus({ preventScroll: true });
}

function listen() {
  // The page was made after this event: nothing is missed in between.
  let after = Number(document.body.dataset.event);
  let waitMs = 1000;
  let polling = 0;
  const poll = () => document.hidden || parts.forEach(soon);

  function connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const stream = new WebSocket(`${scheme}://${location.host}/ws/events?after=${after}`);
    stream.onopen = () => {
      waitMs = 1000;
      clearInterval(polling);
      polling = 0;
      lost(false);
    };
    stream.onmessage = (message) => {
      const event = JSON.parse(message.data);
      after = event.number;
      parts.filter((part) => event.type === "gap" || part.types.includes(event.type)).forEach(soon);
    };
    stream.onclose = () => {
      polling ||= setInterval(poll, POLL_MS);
      poll();
      setTimeout(connect, waitMs);
      waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
    };
  }

  connect();
}

// Buttons that copy the text of the element that data-copy names.
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    const label = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 2000);
  });
}

if (parts.length) listen();
