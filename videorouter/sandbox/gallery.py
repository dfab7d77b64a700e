"""The gallery: one page that lists what was made and plays it, light and dark.

The page brings everything along and asks only its own sandbox; every word of a user is escaped. This file writes HTML
and never decides anything.
"""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

from videorouter.sandbox.delivery import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data:; media-src *"
_CSS = """
:root{color-scheme:light dark;--ground:#f6f5f1;--card:#fff;--ink:#1c1b19;--soft:#6d6a63;--line:#e4e1d8;--sun:#ffd60a;
--good:#1d7a46;--bad:#b3261e;--wait:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ground:#121314;--card:#1c1e20;--ink:#ecebe7;--soft:#9b9992;--line:#2c2f32;
--good:#6fd39b;--bad:#ff8a80;--wait:#f2c14e}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,"Noto Sans",sans-serif}
header{max-width:1240px;margin:0 auto;padding:36px 24px 12px}
h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em;display:flex;gap:12px;align-items:center;flex-wrap:wrap}
.badge{background:var(--sun);color:#1c1b19;font-size:12px;font-weight:700;letter-spacing:.06em;padding:3px 9px;
border-radius:6px}
p{margin:0;color:var(--soft)}
code{font:13px/1.4 ui-monospace,"DejaVu Sans Mono",monospace;color:var(--ink);background:color-mix(in srgb,var(--ink)
7%,transparent);padding:2px 6px;border-radius:5px;word-break:break-all}
dl{display:flex;gap:32px;margin:18px 0 0;flex-wrap:wrap}
dt{color:var(--soft);font-size:13px}
dd{margin:0;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
main{max-width:1240px;margin:0 auto;padding:16px 24px 64px;display:grid;gap:20px;
grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr))}
article{background:var(--card);border:1px solid var(--line);border-radius:14px;overflow:hidden;display:flex;
flex-direction:column}
.screens{display:grid;grid-template-columns:1fr;aspect-ratio:16/9;background:#0b0c0d;gap:2px}
.screens.many{grid-template-columns:1fr 1fr;grid-auto-rows:1fr}
.screen{display:grid;place-items:center;color:#b9b7b0;min-width:0;min-height:0;overflow:hidden}
video{width:100%;height:100%;display:block;object-fit:contain}
.text{padding:14px 16px 16px;display:flex;flex-direction:column;gap:8px;flex:1}
h2{font-size:16px;line-height:1.4;margin:0;font-weight:600;overflow-wrap:anywhere;display:-webkit-box;
-webkit-line-clamp:3;-webkit-box-orient:vertical;overflow:hidden}
.facts{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:13px;color:var(--soft);margin-top:auto}
.state{font-weight:600}.completed{color:var(--good)}.failed,.lost,.expired{color:var(--bad)}
.running,.created{color:var(--wait)}
.of{font-size:13px;color:var(--soft)}
.of a{color:inherit}
.empty{grid-column:1/-1;text-align:center;padding:64px 0;color:var(--soft)}
.spin{width:26px;height:26px;border-radius:50%;border:3px solid #ffffff33;border-top-color:var(--sun);
animation:spin 1s linear infinite}
@keyframes spin{to{transform:rotate(1turn)}}
@media(prefers-reduced-motion:reduce){.spin{animation:none}}
"""
_SCRIPT = """
for(const [name,act] of [['mouseenter',v=>{v.controls=true;v.play()}],['focus',v=>{v.controls=true}],
['mouseleave',v=>{v.controls=false;v.pause()}],['blur',v=>{v.controls=false}]])
document.addEventListener(name,e=>{if(e.target.tagName==='VIDEO')act(e.target)},true);
const look=async()=>{try{
const page=new DOMParser().parseFromString(await(await fetch('/')).text(),'text/html');
document.querySelector('dl').replaceWith(page.querySelector('dl'));
const old=document.querySelector('main'),fresh=page.querySelector('main');
if(old.dataset.mark!==fresh.dataset.mark){
const known=new Map([...old.children].map(card=>[card.id+card.dataset.state,card]));
old.replaceChildren(...[...fresh.children].map(card=>known.get(card.id+card.dataset.state)??card));
old.dataset.mark=fresh.dataset.mark}}catch{}
setTimeout(look,2000)};setTimeout(look,2000);
"""


def write_page(jobs: Sequence[dict[str, Any]], base_url: str, *, spent: float, charged: int) -> Answer:
    """Return the page.

    Args:
        jobs: The jobs, newest first.
        base_url: What a client takes.
        spent: US dollars charged so far.
        charged: How many jobs were charged.
    """
    own = {video["video_id"]: job for job in jobs for video in job["videos"]}
    cards = "".join(_write_card(job, own) for job in jobs)
    open_jobs = sum(job["state"] in {"created", "running"} for job in jobs)
    mark = "".join(f"{job['number']}{job['state'][0]}" for job in jobs)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>videorouter sandbox</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect
 width='16' height='16' rx='4' fill='%23ffd60a'/%3E%3Cpath d='M6 4.5v7l5.5-3.5z' fill='%231c1b19'/%3E%3C/svg%3E">
<style>{_CSS}</style></head><body>
<header><h1>videorouter <span class="badge">SANDBOX</span></h1>
<p>A pretend gateway: nothing here was generated by a model, and nothing was paid. Base URL <code>{escape(base_url)}</code></p>
<dl><div><dt>charged jobs</dt><dd>{charged:,}</dd></div><div><dt>pretended cost</dt><dd>${spent:,.2f}</dd></div>
<div><dt>under way</dt><dd>{open_jobs}</dd></div></dl></header>
<main data-mark="{escape(mark)}">{cards or '<p class="empty">Nothing was made yet.</p>'}</main>
<script>{_SCRIPT}</script></body></html>"""
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": f"{_POLICY}; connect-src 'self'"}
    return Answer(body=page.encode("utf-8", "replace"), content_type="text/html; charset=utf-8", headers=headers)


def _write_card(job: dict[str, Any], own: dict[str, dict[str, Any]]) -> str:
    state = job["state"]
    many = " many" if len(job["videos"]) > 1 else ""
    screens = "".join(_write_screen(job, video) for video in job["videos"])
    parent = own.get(job["parent"] or "")
    name = escape(parent["prompt"][:80]) if parent else escape(job["parent"] or "")
    target = f' href="#job-{parent["number"]}"' if parent else ""
    origin = f'<div class="of">edit of <a{target}>{name}</a></div>' if job["parent"] else ""
    reason = f'<div class="of">{escape(job["reason"])}</div>' if job["reason"] else ""
    if job["sample"]:
        money = "the specification's sample"
    else:
        money = f"${job['cost']:.2f}" if job["charged"] else "not charged"
    clock = "" if job["sample"] else time.strftime("%H:%M:%S", time.localtime(job["created"]))
    return f"""<article id="job-{job["number"]}" data-state="{state}">
<div class="screens{many}">{screens}</div><div class="text">
<h2 title="{escape(job["prompt"])}">{escape(job["prompt"])}</h2>{origin}{reason}
<div class="facts"><span class="state {state}">{state}</span><span>{escape(job["model"])}</span><span>{money}</span>
<span>{clock}</span></div></div></article>"""


def _write_screen(job: dict[str, Any], video: dict[str, str]) -> str:
    if job["state"] == "completed":
        return (
            f'<div class="screen"><video muted loop playsinline tabindex="0" preload="none" poster="{escape(video["poster"])}" '
            f'src="{escape(video["url"])}"></video></div>'
        )
    if job["state"] in {"created", "running"}:
        return '<div class="screen"><div class="spin"></div></div>'
    return f'<div class="screen">{escape(job["state"])}</div>'
