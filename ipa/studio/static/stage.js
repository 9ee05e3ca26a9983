/** The stage: the picture that is made or looked at, the queue, and all that were made. */
import {html} from '/studio/files/vendor/htm-preact.js';
import {DRAGGED, seconds} from '/studio/files/parts.js';
import {made} from '/studio/files/server.js';

const WAITS = {queued: 'waiting', running: 'running'};

/** The job that runs now, or the next one that waits. */
export const current = (jobs) =>
  jobs.find((job) => job.state === 'running') ?? jobs.find((job) => job.state === 'queued') ?? null;

/** How far a job is, in words. */
export function standing(job) {
  const {stage, step, total, eta_s: left} = job.progress ?? {};
  if (job.state === 'queued') return 'Waiting for its turn';
  if (stage !== 'denoise' || !total) return 'Getting ready';
  const rest = left ? `, about ${seconds(left)} left` : '';
  return `Step ${step} of ${total}${rest}`;
}

/** The large picture: a preview while one is made, else the one that was chosen. */
export function Stage({jobs, name, open, isLost}) {
  const job = current(jobs);
  const {step = 0, total = 1} = job?.progress ?? {};
  const part = job?.progress?.stage === 'denoise' ? step / total : 0;
  return html`<div class="stage">
    ${job ? html`<figure class="working">
      ${job.preview ? html`<img src=${job.preview} alt="Preview" />` : html`<div class="blank"></div>`}
      <figcaption><span>${standing(job)}</span>
        <progress max="1" value=${part} aria-label="How far it is"></progress></figcaption></figure>`
    : name ? html`<button type="button" class="result" onClick=${() => open(name)}
        aria-label="Look at this picture"><img src=${made(name)} alt="The newest picture" draggable
        onDragStart=${(event) => event.dataTransfer.setData(DRAGGED, name)} /></button>`
    : html`<div class="welcome"><h2>Show what you want</h2>
        <p>Drop a picture on <b>Style</b>, <b>Composition</b> or <b>Subject</b>, add a few words if you like,
        and press <b>Generate</b>.</p><p>Drop a picture that was made here, and its settings come back.</p></div>`}
    ${isLost && html`<p class="fault" role="alert">The studio does not answer; looking again. Is it still running in the terminal?</p>`}
  </div>`;
}

/** What runs and waits, each with a way to end it; failures with what to do. */
export function Queue({jobs, cancel, dismissed, dismiss}) {
  const active = jobs.filter((job) => job.state in WAITS);
  const failed = jobs.filter((job) => job.error && !dismissed.includes(job.id)).slice(-3);
  if (active.length < 2 && !failed.length) return null;
  return html`<section class="queue" aria-label="Queue">
    ${active.length > 1 && html`<ol>${active.map((job, i) => html`<li key=${job.id} data-state=${job.state}>
      <span>${i + 1}. ${WAITS[job.state]}</span>
      <button type="button" class="quiet" aria-label="Cancel picture ${i + 1}"
        onClick=${() => cancel(job.id)}>Cancel</button></li>`)}</ol>`}
    ${failed.map((job) => html`<p class="fault" role="alert" key=${job.id}>${job.error}
      <button type="button" class="link" onClick=${() => dismiss(job.id)}>Understood</button></p>`)}
  </section>`;
}

/** The pictures that were made, the newest first. */
export function Strip({names, chosen, choose, open, more}) {
  if (!names.length) return null;
  const key = (event) => {
    const way = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    const buttons = [...event.currentTarget.querySelectorAll('button.thumb')];
    const at = buttons.indexOf(document.activeElement);
    if (!way || at < 0) return;
    event.preventDefault();
    buttons[Math.min(buttons.length - 1, Math.max(0, at + way))].focus();
  };
  return html`<div class="strip" role="group" aria-label="Pictures that were made, the newest first" onKeyDown=${key}>
    ${names.map((name, i) => html`<button type="button" class="thumb" key=${name}
      aria-label="Picture ${i + 1} of ${names.length}" aria-current=${name === chosen}
      onClick=${() => (name === chosen ? open(name) : choose(name))} onDblClick=${() => open(name)}>
      <img src=${made(name, 256)} alt="" loading="lazy" draggable
        onDragStart=${(event) => event.dataTransfer.setData(DRAGGED, name)} /></button>`)}
    ${more && html`<button type="button" class="quiet" onClick=${more}>Older ones</button>`}
  </div>`;
}
