/** What a page says to the server, and hears of it. */

/** An answer that is a refusal, in one sentence. */
export class Refusal extends Error {}

async function answer(path, options = {}) {
  let got;
  try {
    got = await fetch(path, options);
  } catch {
    throw new Refusal('The studio does not answer. Is it still running in the terminal?');
  }
  if (got.ok) return got;
  const told = await got.json().catch(() => ({}));
  const {what, found, remedy} = told.error ?? {};
  const parts = [what ?? `The studio answered ${got.status}`, found, remedy].filter(Boolean);
  const sentence = parts.join('; ');
  throw new Refusal(`${sentence[0].toUpperCase()}${sentence.slice(1)}.`);
}

const json = async (path, options) => (await answer(path, options)).json();
const post = (path, body) => json(path, {
  method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body),
});

/** The routes, each a function that gives its answer or throws a Refusal. */
export const server = {
  start: () => json('/studio/start'),
  submit: (job, form) => post('/studio/jobs', {job, form}),
  cancel: (id) => json(`/api/v1/jobs/${id}`, {method: 'DELETE'}),
  gallery: (after) => json(`/studio/gallery${after ? `?after=${after}` : ''}`),
  settings: (name) => json(`/studio/gallery/${name}/settings`),
  code: async (name, way) => (await json(`/studio/gallery/${name}/code?as=${way}`)).text,
  reference: (name) => json(`/studio/gallery/${name}/reference`, {method: 'POST'}),
  bin: (name) => json(`/studio/gallery/${name}`, {method: 'DELETE'}),
  back: (name) => json(`/studio/gallery/${name}/back`, {method: 'POST'}),
  put: (file) => json('/studio/pictures', {method: 'PUT', body: file}),
  edges: (sha256) => json(`/studio/pictures/${sha256}/edges`, {method: 'POST'}),
  restore: (file) => json('/studio/restore', {method: 'POST', body: file}),
  likeness: (body) => post('/studio/likeness', body),
  plan: (job) => post('/api/v1/plan', job),
  seen: async (model, prompt) => {
    const body = {image_prompt: prompt, ...(model ? {model} : {})};
    return (await post('/api/v1/encoder-view', body)).images;
  },
};

/** The address of a picture that was made, whole or small. */
export const made = (name, width) => `/studio/gallery/${name}${width ? `?w=${width}` : ''}`;

/** The address of a picture that others are made of. */
export const reference = (picture, width) =>
  `/studio/pictures/${picture.sha256}${width ? `?w=${width}` : ''}`;

/**
 * Hear how the queue stands, as long as the page is seen: a browser opens few streams to a server.
 * @param {(state: object) => void} told
 * @param {(isThere: boolean) => void} there
 * @returns {() => void} ends it
 */
export function listen(told, there) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource('/studio/events');
    source.addEventListener('state', (event) => {
      there(true);
      told(JSON.parse(event.data));
    });
    source.onerror = () => {
      there(false);
      if (source?.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(open, 2000);
      }
    };
  };
  const close = () => {
    source?.close();
    source = null;
  };
  const turn = () => (document.hidden ? close() : open());
  document.addEventListener('visibilitychange', turn);
  open();
  return () => {
    document.removeEventListener('visibilitychange', turn);
    close();
  };
}
