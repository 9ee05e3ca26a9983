/** The studio: one form, one queue, one gallery, and the screens over them. */
import {html, render, useCallback, useEffect, useRef, useState} from '/studio/files/vendor/htm-preact.js';
import {DialDialog} from '/studio/files/dial.js';
import {KINDS, emptyForm, emptySlot, fromJob, isActive, readForm, toJob} from '/studio/files/form.js';
import {HelpDialog, useKeys} from '/studio/files/keys.js';
import {MaskDialog} from '/studio/files/mask.js';
import {IconButton, bytes, dropped} from '/studio/files/parts.js';
import {PictureDialog} from '/studio/files/picture.js';
import {listen, server} from '/studio/files/server.js';
import {Settings, Words, randomSeed, usualSide} from '/studio/files/settings.js';
import {Slot} from '/studio/files/slot.js';
import {Queue, Stage, Strip, current, standing} from '/studio/files/stage.js';

const KEPT = 'ipa-mlx-form';
const MOST_UNDO = 100;
const SAY_MS = 5000; // a screen reader is told of steps no more often

function stored() {
  try {
    return readForm(JSON.parse(localStorage.getItem(KEPT)));
  } catch {
    return emptyForm();
  }
}

/** The form, kept over reloads, with its past. */
function useForm() {
  const [form, setForm] = useState(stored);
  const past = useRef([]);
  const set = useCallback((next) => setForm((now) => {
    const made = typeof next === 'function' ? next(now) : next;
    past.current.push(now);
    past.current.splice(0, past.current.length - MOST_UNDO);
    localStorage.setItem(KEPT, JSON.stringify(made));
    return made;
  }), []);
  const undo = () => {
    const before = past.current.pop();
    if (!before) return;
    localStorage.setItem(KEPT, JSON.stringify(before));
    setForm(before);
  };
  return {form, set, undo};
}

/** The queue and the gallery as the server tells of them. */
function useStudio() {
  const [state, setState] = useState({jobs: [], changes: -1});
  const [isThere, setThere] = useState(true);
  const [gallery, setGallery] = useState({names: [], more: false});
  useEffect(() => listen(setState, setThere), []);
  const look = useCallback(() => server.gallery().then(setGallery, () => setThere(false)), []);
  useEffect(() => { look(); }, [state.changes]);
  const older = async () => {
    const next = await server.gallery(gallery.names.at(-1));
    setGallery({names: [...gallery.names, ...next.names], more: next.more});
  };
  return {jobs: state.jobs, isThere, names: gallery.names, more: gallery.more && older, look};
}

/** What will happen, in words. */
function planLine(form, offered, memory) {
  const side = usualSide(form.model ?? offered.models[0], offered);
  const active = form.slots.filter(isActive).length;
  const of = [active && `${active} picture${active > 1 ? 's' : ''}`, form.prompt.trim() && 'words'].filter(Boolean);
  const parts = [of.length ? `Of ${of.join(' and ')}` : 'Of nothing yet: whatever the model likes',
    `${form.width ?? side} × ${form.height ?? side}`, `${form.steps ?? 30} steps`];
  if (form.count > 1) parts.push(`${form.count} pictures`);
  if (memory) parts.push(`needs ${bytes(memory)}`);
  return `${parts.join(' · ')}.`;
}

/** The memory that the form's job would take, asked for when nothing else is done. */
function useMemory(form, isBusy) {
  const [memory, setMemory] = useState(null);
  const [fault, setFault] = useState(null);
  const job = JSON.stringify(toJob({...form, seed: 1}));
  useEffect(() => {
    if (isBusy) return undefined;
    let isOld = false;
    const clock = setTimeout(() => server.plan(JSON.parse(job)).then(
      (plan) => { if (!isOld) { setMemory(plan.peak); setFault(null); } },
      (error) => { if (!isOld) { setMemory(null); setFault(error.message); } },
    ), 400);
    return () => { isOld = true; clearTimeout(clock); };
  }, [job, isBusy]);
  return {memory, fault};
}

/** What a screen reader is told of a run. */
function useSaid(jobs) {
  const [said, setSaid] = useState('');
  const last = useRef(0);
  const job = current(jobs);
  const words = job ? standing(job) : '';
  useEffect(() => {
    if (words && Date.now() - last.current < SAY_MS) return;
    last.current = words ? Date.now() : 0;
    setSaid(words);
  }, [words]);
  return said;
}

/** All that the screens may do. */
function useActions({form, set, offered, studio, setDialog, setChosen, setFaults, setNote}) {
  const fault = (where, words) => setFaults((all) => ({...all, [where]: words}));
  const changeSlot = (key, patch) => set((now) => ({
    ...now, slots: now.slots.map((slot) => (slot.key === key ? {...slot, ...patch} : slot)),
  }));
  const fetched = async ({file, name}) => (name ? server.reference(name) : server.put(file));
  const bring = async (key, what) => {
    fault(key, null);
    try {
      const {notes = [], ...picture} = await fetched(what);
      const {kind} = form.slots.find((slot) => slot.key === key);
      const control = kind === 'structure' ? await server.edges(picture.sha256) : null;
      changeSlot(key, {picture, control, box: null, on: true, mask: null});
      if (notes.length) setNote(`Note: ${notes.join('; ')}.`);
    } catch (error) {
      fault(key, error.message);
    }
  };
  const bringAnywhere = (what) => {
    const free = form.slots.find((slot) => !slot.picture) ?? form.slots[0];
    return bring(free.key, what);
  };
  const bringStart = async (what) => {
    fault('start', null);
    try {
      const {notes, ...picture} = await fetched(what);
      set((now) => ({...now, start: {picture, strength: 0.7, mask: null}}));
    } catch (error) {
      fault('start', error.message);
    }
  };
  const take = (told) => {
    const sizes = new Map((told.pictures ?? []).map((one) => [one.sha256, one]));
    const known = (picture) => (picture && sizes.has(picture.sha256) ? picture : null);
    const own = told.form ? readForm(told.form) : fromJob(told.job, sizes);
    const slots = own.slots.map((slot) => (
      {...slot, picture: known(slot.picture), mask: known(slot.mask), control: known(slot.control)}));
    const seed = told.job.request?.seed ?? own.seed;
    set({...own, slots, seed, locked: true, count: 1, start: known(own.start?.picture) && own.start});
    const lost = told.not_restored;
    setNote(`Settings are back${told.made_by === 'ipa-mlx' ? '' : ` from ${told.made_by}`}.${lost.length ? ` Not restored: ${lost.join('; ')}.` : ''}`);
    setDialog(null);
  };
  const restore = async (file) => {
    try {
      const told = await server.restore(file);
      if (told.job) take(told);
      else await bringAnywhere({file});
    } catch (error) {
      setNote(error.message);
    }
  };
  const submit = async (wanted) => {
    fault('form', null);
    try {
      await server.submit(toJob(wanted), wanted);
    } catch (error) {
      fault('form', error.message);
    }
  };
  const generate = () => {
    const seed = form.locked ? form.seed : randomSeed();
    const wanted = {...form, seed};
    if (seed !== form.seed) set(wanted);
    return submit(wanted);
  };
  const cancel = (id) => server.cancel(id).catch((error) => fault('form', error.message));
  const bin = async (name) => {
    try {
      await server.bin(name);
      setDialog(null);
      setChosen(null);
      studio.look();
      setNote({words: 'Moved to the bin.', act: 'Take it back', go: () => server.back(name).then(studio.look)});
    } catch (error) {
      setNote(error.message);
    }
  };
  const again = (told) => {
    const sizes = new Map((told.pictures ?? []).map((one) => [one.sha256, one]));
    const own = told.form ? readForm(told.form) : fromJob(told.job, sizes);
    submit({...own, seed: told.job.request?.seed ?? own.seed, count: 1, influence: true});
    setDialog(null);
  };
  const asReference = async (name, kind) => {
    const slot = form.slots.find((one) => one.kind === kind);
    await bring(slot.key, {name});
    setDialog(null);
  };
  const canvas = {width: form.width ?? usualSide(form.model ?? offered.models[0], offered)};
  canvas.height = form.height ?? usualSide(form.model ?? offered.models[0], offered);
  return {changeSlot, bring, bringStart, take, restore, generate, cancel, bin, again, asReference, canvas,
    change: (patch) => set((now) => ({...now, ...patch})),
    add: (kind) => set((now) => ({...now, slots: [...now.slots, emptySlot(kind)]})),
    remove: (slot) => {
      const isExtra = form.slots.filter((one) => one.kind === slot.kind).length > 1;
      if (isExtra) set((now) => ({...now, slots: now.slots.filter((one) => one.key !== slot.key)}));
      else changeSlot(slot.key, {...emptySlot(slot.kind), key: slot.key});
    }};
}

function Adding({add}) {
  return html`<div class="adding"><label class="unseen" for="adding">Another slot</label>
    <select id="adding" value="" onChange=${(event) => { add(event.target.value); event.target.value = ''; }}>
      <option value="">+ another slot</option>
      ${Object.entries(KINDS).map(([kind, {name}]) => html`<option value=${kind}>${name}</option>`)}</select></div>`;
}

function Note({note, close}) {
  if (!note) return null;
  const {words, act, go} = typeof note === 'string' ? {words: note} : note;
  return html`<div class="note" role="status"><span>${words}</span>
    ${act && html`<button type="button" class="link" onClick=${() => { go(); close(); }}>${act}</button>`}
    <${IconButton} of="close" label="Close the note" onClick=${close} /></div>`;
}

function Masks({dialog, form, acts, close}) {
  const slot = form.slots.find((one) => one.key === dialog.key);
  const isStart = dialog.kind === 'anew';
  const done = (mask) => {
    if (isStart) acts.change({start: {...form.start, mask}});
    else acts.changeSlot(dialog.key, {mask});
    close();
  };
  return html`<${MaskDialog} ...${acts.canvas} close=${close} done=${done}
    title=${isStart ? 'What is made anew' : `Where ${KINDS[slot.kind].name} acts`}
    about=${isStart ? 'Paint over what is to be made anew.' : 'Paint where this picture acts in the new one.'}
    mask=${isStart ? form.start.mask : slot.mask} below=${isStart ? form.start.picture : null} />`;
}

function Dialogs({dialog, setDialog, form, studio, acts}) {
  const close = () => setDialog(null);
  if (dialog?.kind === 'picture') {
    return html`<${PictureDialog} name=${dialog.name} names=${studio.names} close=${close} use=${acts.take}
      go=${(name) => setDialog({kind: 'picture', name})} bin=${acts.bin} again=${acts.again}
      start=${(name) => { acts.bringStart({name}); close(); }} reference=${acts.asReference} />`;
  }
  if (dialog?.kind === 'mask' || dialog?.kind === 'anew') return html`<${Masks} ...${{dialog, form, acts, close}} />`;
  if (dialog?.kind === 'dial') {
    return html`<${DialDialog} form=${form} slotKey=${dialog.key} jobs=${studio.jobs} close=${close}
      use=${(wanted) => { acts.change({slots: wanted.slots, seed: wanted.seed, locked: true}); close(); }} />`;
  }
  return dialog?.kind === 'help' ? html`<${HelpDialog} close=${close} />` : null;
}

function Studio({offered}) {
  const {form, set, undo} = useForm();
  const studio = useStudio();
  const [chosen, setChosen] = useState(null);
  const [dialog, setDialog] = useState(null);
  const [faults, setFaults] = useState({});
  const [note, setNote] = useState(null);
  const [dismissed, setDismissed] = useState([]);
  const acts = useActions({form, set, offered, studio, setDialog, setChosen, setFaults, setNote});
  const job = current(studio.jobs);
  const {memory, fault: planFault} = useMemory(form, job !== null);
  const said = useSaid(studio.jobs);
  const waiting = studio.jobs.filter((one) => one.state === 'queued').length;
  const newest = studio.names[0] ?? null;
  useEffect(() => { setChosen(newest); }, [newest]);
  const see = useCallback(async (slot) => {
    const [entry] = toJob({...emptyForm(), slots: [{...slot, on: true, mask: null}]}).request.image_prompts ?? [];
    return entry ? server.seen(form.model, entry).then(([first]) => first, () => null) : null;
  }, [form.model]);
  const stop = () => job && acts.cancel(job.id);
  const open = (name) => setDialog({kind: 'picture', name});
  useKeys({generate: acts.generate, stop, undo, help: () => setDialog({kind: 'help'}),
    open: () => chosen && open(chosen), isOpen: dialog !== null});
  const drop = (event) => {
    const what = dropped(event);
    if (!what) return;
    event.preventDefault();
    if (what.file) acts.restore(what.file);
  };
  return html`<div class="studio" onDrop=${drop} onDragOver=${(event) => event.preventDefault()}
    onPaste=${(event) => { const [file] = event.clipboardData.files; if (file) { event.preventDefault(); acts.restore(file); } }}>
    <header class="top"><h1>ipa-mlx <span>studio</span></h1>
      ${waiting > 0 && html`<span class="chip">${waiting} waiting</span>`}
      <${IconButton} of="help" label="Keys and help" onClick=${() => setDialog({kind: 'help'})} /></header>
    <main><form class="panel" aria-label="What to make" onSubmit=${(event) => event.preventDefault()}>
      <div class="scroll"><${Words} form=${form} change=${acts.change} />
        <div class="slots" role="group" aria-label="Pictures as prompts">${form.slots.map((slot) => html`<${Slot} key=${slot.key}
          slot=${slot} offered=${offered} see=${see} fault=${faults[slot.key]} change=${(patch) => acts.changeSlot(slot.key, patch)}
          remove=${() => acts.remove(slot)} bring=${(what) => acts.bring(slot.key, what)}
          paint=${() => setDialog({kind: 'mask', key: slot.key})} dial=${() => setDialog({kind: 'dial', key: slot.key})} />`)}
          <${Adding} add=${acts.add} /></div>
        <${Settings} form=${form} change=${acts.change} offered=${offered} fault=${faults.start}
          bringStart=${acts.bringStart} paintStart=${() => setDialog({kind: 'anew'})} /></div>
      <div class="foot">${faults.form && html`<p class="fault" role="alert">${faults.form}</p>`}
        ${planFault && !job ? html`<p class="plan fault" role="status">${planFault}</p>`
          : html`<p class="plan">${planLine(form, offered, memory)}</p>`}
        <div class="row"><button type="button" id="generate" class="primary big" onClick=${job ? stop : acts.generate}>
            ${job ? 'Stop' : 'Generate'}</button>
          ${job && html`<button type="button" class="big" onClick=${acts.generate}>Add to the queue</button>`}</div></div></form>
      <div class="view" aria-label="Pictures" role="region"><${Stage} jobs=${studio.jobs} name=${chosen} open=${open} isLost=${!studio.isThere} />
        <${Queue} jobs=${studio.jobs} cancel=${acts.cancel} dismissed=${dismissed} dismiss=${(id) => setDismissed([...dismissed, id])} />
        <${Strip} names=${studio.names} chosen=${chosen} choose=${setChosen} open=${open} more=${studio.more} /></div></main>
    <${Note} note=${note} close=${() => setNote(null)} />
    <div class="unseen" role="status" aria-live="polite">${said}</div>
    <${Dialogs} ...${{dialog, setDialog, form, studio, acts}} /></div>`;
}

function Opening() {
  const [offered, setOffered] = useState(null);
  const [fault, setFault] = useState(null);
  useEffect(() => { server.start().then(setOffered, (error) => setFault(error.message)); }, []);
  if (fault) return html`<p class="fault" role="alert">${fault}</p>`;
  return offered ? html`<${Studio} offered=${offered} />` : null;
}

const root = document.getElementById('app');
root.replaceChildren();
render(html`<${Opening} />`, root);
