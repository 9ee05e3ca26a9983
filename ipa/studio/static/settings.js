/** Words, size, steps and the like: what a picture is made with beside other pictures. */
import {html} from '/studio/files/vendor/htm-preact.js';
import {isActive} from '/studio/files/form.js';
import {Choice, FileButton, IconButton, NumberField, dropped} from '/studio/files/parts.js';
import {reference} from '/studio/files/server.js';

const MOST_SEED = 2 ** 32 - 1;

/** A random seed. */
export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** The words. */
export function Words({form, change}) {
  return html`<div class="words">
    <label><span class="label">What you want to see</span>
      <textarea id="prompt" rows="3" placeholder="A few words, or none: pictures are enough"
        value=${form.prompt} onInput=${(event) => change({prompt: event.target.value})}></textarea></label>
    <details open=${form.negative !== ''}><summary>What you do not want</summary>
      <textarea rows="2" aria-label="What you do not want" value=${form.negative}
        onInput=${(event) => change({negative: event.target.value})}></textarea></details>
  </div>`;
}

/** The side of a square that a model is made for. */
export function usualSide(model, offered) {
  if (offered.demos.includes(model)) return 64;
  return /xl/i.test(model) ? 1024 : 512;
}

const SHAPES = {Square: [1, 1], Tall: [0.75, 1], Wide: [1, 0.75]};

function Size({form, change, offered}) {
  const side = usualSide(form.model ?? offered.models[0], offered);
  const step = side === 64 ? 4 : 8;
  const fit = (value) => Math.round(value / step) * step;
  const first = form.slots.find(isActive)?.picture ?? form.start?.picture;
  const [width, height] = [form.width ?? side, form.height ?? side];
  const asPicture = () => {
    const factor = side / Math.sqrt(first.width * first.height);
    change({width: fit(first.width * factor), height: fit(first.height * factor)});
  };
  return html`<fieldset class="size"><legend>Size</legend>
    <div class="segments" role="group" aria-label="Shape">
      ${Object.entries(SHAPES).map(([name, [w, h]]) => html`<button type="button"
        aria-pressed=${width === fit(w * side) && height === fit(h * side)}
        onClick=${() => change({width: fit(w * side), height: fit(h * side)})}>${name}</button>`)}
      <button type="button" disabled=${!first} onClick=${asPicture}>As picture</button></div>
    <div class="sides">
    <${NumberField} label="Width" hidden value=${width} low=${8} high=${offered.limits.side} step=${step}
      set=${(value) => change({width: fit(value)})} /><span class="times">×</span>
    <${NumberField} label="Height" hidden value=${height} low=${8} high=${offered.limits.side} step=${step}
      set=${(value) => change({height: fit(value)})} /></div></fieldset>`;
}

function Seed({form, change}) {
  return html`<fieldset><legend>Seed</legend><div class="row seed">
    <${NumberField} label="Seed" hidden value=${form.seed} set=${(seed) => change({seed: Math.round(seed)})}
      low=${0} high=${MOST_SEED} />
    <${IconButton} of="dice" label="Another seed" onClick=${() => change({seed: randomSeed()})} />
    <${IconButton} of=${form.locked ? 'lock' : 'unlock'} aria-pressed=${form.locked}
      label=${form.locked ? 'The seed stays: let it change' : 'A new seed each time: keep it'}
      onClick=${() => change({locked: !form.locked})} /></div></fieldset>`;
}

function Start({form, change, bring, paint, fault}) {
  const {start} = form;
  const drop = (event) => {
    const what = dropped(event);
    if (!what) return;
    event.preventDefault();
    event.stopPropagation();
    bring(what);
  };
  const put = (patch) => change({start: {...start, ...patch}});
  return html`<details class="start" open=${start !== null} onDrop=${drop}
    onDragOver=${(event) => event.preventDefault()}>
    <summary>Start from a picture</summary>
    ${start ? html`<div class="filled small"><img src=${reference(start.picture, 160)} alt="The picture to start from" />
      <div class="beside"><div class="strength"><input type="range" min="0.05" max="1" step="0.05"
          value=${start.strength} aria-label="How much of it is made anew"
          onInput=${(event) => put({strength: Number(event.target.value)})} />
        <output>${Math.round(start.strength * 100)} % anew</output></div>
        <div class="row buttons"><button type="button" class="quiet" onClick=${paint}>
          ${start.mask ? 'Change the mask' : 'Paint what is made anew'}</button>
          ${start.mask && html`<button type="button" class="quiet" onClick=${() => put({mask: null})}>All of it</button>`}
          <button type="button" class="quiet" onClick=${() => change({start: null})}>Take it out</button></div></div></div>`
    : html`<p class="hint">Drop one here, or <${FileButton} label="choose a picture" kind="link"
        take=${(file) => bring({file})} />.</p>`}
    ${fault && html`<p class="fault" role="alert">${fault}</p>`}
  </details>`;
}

/** Everything that is set by numbers and lists. */
export function Settings({form, change, offered, bringStart, paintStart, fault}) {
  return html`<div class="settings">
    <${Size} ...${{form, change, offered}} />
    <${Seed} ...${{form, change}} />
    <details class="fine"><summary>Model, steps and sampling</summary><div class="grid">
      <${Choice} label="Model" value=${form.model} first=${offered.models[0]}
        options=${offered.models.slice(1)} set=${(model) => change({model})} />
      <${NumberField} label="Steps" value=${form.steps} empty="30" low=${1} high=${1000}
        set=${(steps) => change({steps: steps === null ? null : Math.round(steps)})} />
      <${Choice} label="Sampler" value=${form.sampler} first="the model's" options=${offered.samplers}
        set=${(sampler) => change({sampler})} />
      <${NumberField} label="Guidance" value=${form.guidance} empty="usual" low=${0} high=${50} step=${0.5}
        set=${(guidance) => change({guidance})} />
      <${NumberField} label="How many" value=${form.count} low=${1} high=${8}
        set=${(count) => change({count: Math.round(count)})} />
      <label class="check"><input type="checkbox" checked=${form.influence}
        onChange=${(event) => change({influence: event.target.checked})} />
        <span>Note where pictures act</span></label></div></details>
    <${Start} ...${{form, change, fault}} bring=${bringStart} paint=${paintStart} />
  </div>`;
}
