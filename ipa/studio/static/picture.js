/** One picture that was made: what made it, and what can be done with it. */
import {html, useEffect, useState} from '/studio/files/vendor/htm-preact.js';
import {KINDS} from '/studio/files/form.js';
import {Dialog, IconButton} from '/studio/files/parts.js';
import {made, server} from '/studio/files/server.js';

const WAYS = {cli: 'Command line', python: 'Python', diffusers: 'diffusers', curl: 'curl'};
const SECTIONS = {'': 'All layers', down: 'Down', mid: 'Middle', up: 'Up'};

/** What made a picture, as pairs of words. */
export function facts(told) {
  const request = told?.info?.request ?? told?.job?.request ?? {};
  const prompts = request.image_prompts ?? [];
  const rows = [
    ['Words', request.prompt || 'none'], ['Not wanted', request.negative_prompt],
    ...prompts.map((one, i) => [`Picture ${i + 1}`, [
      one.layers, `weight ${one.scale ?? 1}`, `${one.start ?? 0}–${one.end ?? 1} of the steps`,
      one.adapter && `adapter ${one.adapter}`].filter(Boolean).join(', ')]),
    ['Structure', request.controls?.length ? `${request.controls.length}` : null],
    ['Size', request.width && `${request.width} × ${request.height}`],
    ['Steps', request.num_inference_steps], ['Sampler', request.scheduler],
    ['Guidance', request.guidance_scale], ['Seed', request.seed], ['Model', told?.info?.model],
    ['Made by', told?.info?.ipa_mlx ? `ipa-mlx ${told.info.ipa_mlx}, ${told.info.backend}` : told?.made_by],
  ];
  return rows.filter(([, value]) => value !== null && value !== undefined && value !== '');
}

function Wipe({name, other}) {
  const [at, setAt] = useState(50);
  return html`<div class="wipe"><img src=${made(name)} alt="This picture" />
    <img class="over" src=${made(other)} alt="The other picture" style=${{clipPath: `inset(0 0 0 ${at}%)`}} />
    <input type="range" min="0" max="100" value=${at} aria-label="Wipe between the two pictures"
      onInput=${(event) => setAt(Number(event.target.value))} /></div>`;
}

function Influence({told, name, again}) {
  const [prompt, setPrompt] = useState(0);
  const [section, setSection] = useState('');
  const [isGone, setGone] = useState(false);
  const count = told.job.request?.image_prompts?.length ?? 0;
  if (!count) return html`<p class="hint">It was made of words alone.</p>`;
  const address = `/api/v1/jobs/${told.id}/influence?prompt=${prompt}&image=${told.number ?? 0}${section ? `&section=${section}` : ''}`;
  if (isGone || !told.id) {
    return html`<p class="hint">Where its pictures acted was not noted.
      <button type="button" class="link" onClick=${again}>Make it again, and note it</button></p>`;
  }
  return html`<div class="influence"><div class="overlaid"><img src=${made(name)} alt="" />
    <img class="heat" src=${address} alt="Where the picture acted, bright is strongly" onError=${() => setGone(true)} /></div>
    <div class="row"><div class="segments" role="group" aria-label="Picture">${[...Array(count).keys()].map((i) => html`
      <button type="button" aria-pressed=${i === prompt} onClick=${() => setPrompt(i)}>Picture ${i + 1}</button>`)}</div>
    <div class="segments" role="group" aria-label="Layers">${Object.entries(SECTIONS).map(([key, words]) => html`
      <button type="button" aria-pressed=${key === section} onClick=${() => setSection(key)}>${words}</button>`)}</div></div></div>`;
}

function Code({name}) {
  const [way, setWay] = useState('cli');
  const [text, setText] = useState('');
  const [word, setWord] = useState('');
  useEffect(() => {
    setWord('');
    server.code(name, way).then(setText, (error) => setText(error.message));
  }, [name, way]);
  const copy = () => navigator.clipboard.writeText(text).then(() => setWord('Copied'),
    () => setWord('The browser does not allow it: select the text'));
  return html`<div class="code"><div class="row"><div class="segments" role="group" aria-label="Copy as">
    ${Object.entries(WAYS).map(([key, words]) => html`<button type="button" aria-pressed=${key === way}
      onClick=${() => setWay(key)}>${words}</button>`)}</div>
    <button type="button" class="quiet" onClick=${copy}>Copy</button><span role="status">${word}</span></div>
    <pre tabindex="0" aria-label="The text">${text}</pre></div>`;
}

function Facts({told}) {
  return html`<dl>${facts(told).map(([key, value]) => html`<dt>${key}</dt><dd>${value}</dd>`)}</dl>
    ${(told.info?.warnings ?? []).map((one) => html`<p class="hint">${one}</p>`)}
    ${told.not_restored.length > 0 && html`<p class="hint">Cannot come back: ${told.not_restored.join('; ')}.</p>`}`;
}

/** The dialog of a picture. */
export function PictureDialog({name, names, close, go, use, start, reference, bin, again}) {
  const [told, setTold] = useState(null);
  const [fault, setFault] = useState(null);
  const [view, setView] = useState('picture');
  const [other, setOther] = useState(null);
  useEffect(() => {
    setTold(null);
    setView('picture');
    server.settings(name).then(setTold, (error) => setFault(error.message));
  }, [name]);
  const at = names.indexOf(name);
  const key = (event) => {
    const way = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (event.target.matches('input, select, pre')) return;
    if (way && names[at + way]) go(names[at + way]);
    if (event.key === 'r' && told?.job) use(told);
    if (event.key === 's') document.getElementById('save').click();
  };
  const others = names.filter((one) => one !== name).slice(0, 24);
  const VIEWS = {picture: 'Picture', compare: 'Compare', influence: 'Influence', code: 'Copy as'};
  return html`<${Dialog} title="Picture" close=${close} kind="wide"><div class="picture" onKeyDown=${key}>
    <div class="shown">
      <div class="segments" role="group" aria-label="View">${Object.entries(VIEWS).map(([id, words]) => html`
        <button type="button" aria-pressed=${id === view} onClick=${() => setView(id)}>${words}</button>`)}</div>
      ${view === 'picture' && html`<div class="frame"><img class="large" src=${made(name)} alt="The picture" /></div>`}
      ${view === 'compare' && (others.length ? html`<div class="frame"><${Wipe} name=${name} other=${other ?? others[0]} /></div>
        <div class="choices" role="group" aria-label="With which">${others.map((one) => html`<button type="button"
          aria-pressed=${one === (other ?? others[0])} aria-label="Compare with this one"
          onClick=${() => setOther(one)}><img src=${made(one, 128)} alt="" /></button>`)}</div>`
        : html`<p class="hint">There is no other picture yet.</p>`)}
      ${view === 'influence' && told?.job && html`<${Influence} told=${told} name=${name} again=${() => again(told)} />`}
      ${view === 'code' && html`<${Code} name=${name} />`}
      <div class="turn"><${IconButton} of="left" label="A newer picture" disabled=${at <= 0} onClick=${() => go(names[at - 1])} />
        <span>${at + 1} of ${names.length}</span>
        <${IconButton} of="right" label="An older picture" disabled=${at >= names.length - 1} onClick=${() => go(names[at + 1])} /></div>
    </div>
    <div class="told">
      ${fault && html`<p class="fault" role="alert">${fault}</p>`}
      <div class="actions"><button type="button" class="primary" disabled=${!told?.job} onClick=${() => use(told)}>Use these settings</button>
        <button type="button" onClick=${() => start(name)}>Start from it</button>
        <a id="save" class="button" href=${made(name)} download="${name}.png">Save</a>
        <button type="button" class="danger" onClick=${() => bin(name)}>Bin</button></div>
      <div class="actions" role="group" aria-label="Use as a reference"><span class="hint">Use it for</span>
        ${Object.entries(KINDS).map(([kind, {name: words}]) => html`<button type="button" class="quiet"
          onClick=${() => reference(name, kind)}>${words}</button>`)}</div>
      ${told && html`<${Facts} told=${told} />`}
    </div></div></${Dialog}>`;
}
