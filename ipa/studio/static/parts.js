/** Small parts that screens are made of. */
import {html, useEffect, useRef} from '/studio/files/vendor/htm-preact.js';

const ICONS = {
  close: 'M6 6l12 12M18 6L6 18', more: 'M5 12h.01M12 12h.01M19 12h.01', plus: 'M12 5v14M5 12h14',
  lock: 'M7 11V8a5 5 0 0 1 10 0v3M6 11h12v9H6z', unlock: 'M7 11V8a5 5 0 0 1 9.5-2M6 11h12v9H6z',
  dice: 'M5 5h14v14H5zM9 9h.01M15 15h.01M15 9h.01M9 15h.01', brush: 'M4 20c4 0 5-2 5-4l9-11 2 2-10 9',
  dial: 'M5 17a8 8 0 1 1 14 0M12 14l4-5', left: 'M15 5l-7 7 7 7', right: 'M9 5l7 7-7 7',
  undo: 'M8 5L4 9l4 4M4 9h10a5 5 0 0 1 0 10h-3', redo: 'M16 5l4 4-4 4M20 9H10a5 5 0 0 0 0 10h3',
  help: 'M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 18h.01',
};

/** A drawing that says nothing to a screen reader. */
export const Icon = ({of}) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
  <path d=${ICONS[of]} /></svg>`;

/** A button that is a drawing, with a name for everybody. */
export const IconButton = ({of, label, ...rest}) => html`<button type="button" class="bare"
  aria-label=${label} title=${label} ...${rest}><${Icon} of=${of} /></button>`;

/** A number between limits; empty is null where that means the model's own. */
export function NumberField({label, value, set, low, high, step = 1, empty, hidden = false}) {
  const change = (event) => {
    const told = event.target.value;
    if (told === '') {
      if (empty !== undefined) set(null);
      return;
    }
    const found = Number(told);
    if (Number.isFinite(found)) set(Math.min(high, Math.max(low, found)));
  };
  return html`<label class="field"><span class=${hidden ? 'unseen' : ''}>${label}</span>
    <input type="number" min=${low} max=${high} step=${step} value=${value ?? ''}
      placeholder=${empty ?? ''} onChange=${change} /></label>`;
}

/** A choice of a list; null is the first, which is named. */
export const Choice = ({label, value, set, options, first}) => html`<label class="field">
  <span>${label}</span>
  <select value=${value ?? ''} onChange=${(event) => set(event.target.value || null)}>
    ${first !== undefined && html`<option value="">${first}</option>`}
    ${options.map((one) => html`<option value=${one}>${one}</option>`)}
  </select></label>`;

/** A dialog that is open as long as it stands; Escape and the button close it. */
export function Dialog({title, close, children, kind = ''}) {
  const at = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    at.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${at} class=${kind} aria-label=${title}
    onCancel=${(event) => { event.preventDefault(); close(); }}
    onClick=${(event) => event.target === at.current && close()}>
    <div class="sheet"><header><h2>${title}</h2>
      <${IconButton} of="close" label="Close" onClick=${close} /></header>${children}</div>
  </dialog>`;
}

/** A button that takes files by choosing them. */
export function FileButton({label, take, kind = '', accept = 'image/png,image/jpeg,image/webp'}) {
  const at = useRef(null);
  const chosen = (event) => {
    const [file] = event.target.files;
    event.target.value = '';
    if (file) take(file);
  };
  return html`<button type="button" class=${kind} onClick=${() => at.current.click()}>${label}
    </button><input ref=${at} type="file" class="unseen" tabindex="-1" aria-label=${label}
    accept=${accept} onChange=${chosen} />`;
}

/** The key under which a picture of the gallery is dragged. */
export const DRAGGED = 'application/x-ipa-mlx-picture';

/** What was dropped: {name} of the gallery, {file}, or null. */
export function dropped(event) {
  const name = event.dataTransfer.getData(DRAGGED);
  if (name) return {name};
  const [file] = event.dataTransfer.files;
  return file ? {file} : null;
}

/** Seconds in words. */
export const seconds = (value) =>
  value < 90 ? `${Math.max(1, Math.round(value))} s` : `${Math.round(value / 60)} min`;

/** Bytes in words. */
export const bytes = (value) =>
  value < 1e9 ? `${Math.round(value / 1e6)} MB` : `${(value / 1e9).toFixed(1)} GB`;
