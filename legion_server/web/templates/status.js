"use strict";

const EVERY_MS = 2000;

async function refresh() {
  try {
    const answer = await fetch("/status", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    document.getElementById("status").innerHTML = await answer.text();
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
  }
  setTimeout(refresh, EVERY_MS);
}

setTimeout(refresh, EVERY_MS);
