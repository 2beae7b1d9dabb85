// Runs the page's browser test three times: against made-up loops (one full of hostile names, one empty), and against
// the real program, once it has judged something.
//
// usage: node scripts/page-test.mjs FOLDER      FOLDER: where the programs were built, such as target/debug
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = resolve(process.argv[2] ?? 'target/debug');
const web = join(dirname(fileURLToPath(import.meta.url)), '..', 'dashboards', 'web');
const scratch = mkdtempSync(join(tmpdir(), 'flywheel-page-test-'));
const patience = Number(process.env.FLYWHEEL_PAGE_PATIENCE_S ?? 300) * 1000;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Polls until `ready` gives something, or the program ends, or patience does. */
async function waitFor(what, child, ready) {
  const deadline = Date.now() + patience;
  for (;;) {
    const found = await ready().catch(() => undefined);
    if (found) return found;
    if (child.exitCode !== null) throw new Error(`the program ended (${child.exitCode}) before ${what}`);
    if (Date.now() > deadline) throw new Error(`waited ${patience / 1000} s for ${what}`);
    await sleep(250);
  }
}

function start(program, args, log) {
  const out = openSync(log, 'w');
  return spawn(program, args, { stdio: ['ignore', out, out], cwd: scratch });
}

async function stop(child) {
  if (child.exitCode !== null) return;
  const ended = new Promise((done) => child.once('exit', done));
  child.kill('SIGTERM');
  await Promise.race([ended, sleep(40_000)]);
  if (child.exitCode === null) child.kill('SIGKILL');
}

/** The browser test itself; resolves to whether it passed. */
const browse = (url, flags) =>
  new Promise((done) => {
    const test = spawn(process.execPath, ['tests/page.spec.mjs', url, ...flags], { cwd: web, stdio: 'inherit' });
    test.once('exit', (code) => done(code === 0));
  });

async function demo(flag) {
  const log = join(scratch, `demo${flag}.log`);
  const child = start(join(folder, 'examples', 'demo_page'), [flag], log);
  try {
    const url = await waitFor('its address', child, async () => readFileSync(log, 'utf8').match(/http:\S+/)?.[0]);
    console.log(`the page over a made-up loop (${flag})`);
    return await browse(url, [flag]);
  } finally {
    await stop(child);
  }
}

async function real() {
  const [data, log] = [join(scratch, 'data'), join(scratch, 'up.log')];
  // A first version after a moment of learning: what the page shows is tested, not how well it plays.
  writeFileSync(join(scratch, 'flywheel.toml'), '[train.options]\nmin-size = "1000"\nfirst-publish-steps = "200"\n');
  const child = start(join(folder, 'flywheel'), ['up', '--data', data, '--port', '0', '--seed', '7'], log);
  try {
    const url = await waitFor('its address', child, async () => JSON.parse(readFileSync(join(data, 'up.json'), 'utf8')).url);
    // A champion and a candidate beside it, and enough of a past for lines to be drawn.
    await waitFor('two versions, loss and scores', child, async () => {
      const ask = async (path) => (await fetch(`${url}${path}`)).json();
      const [history, models] = [await ask('/v1/history'), await ask('/v1/models')];
      return models.items.length > 1 && history.loss.length > 9 && history.latency.length > 9 && history.scores.length > 0;
    });
    console.log('the page over the real program');
    return await browse(url, []);
  } catch (error) {
    throw new Error(`${error.message}; the program said:\n${readFileSync(log, 'utf8').slice(-4000)}`);
  } finally {
    await stop(child);
  }
}

let passed = true;
try {
  if (existsSync(join(folder, 'examples', 'demo_page'))) {
    passed = (await demo('--hostile')) && passed;
    passed = (await demo('--empty')) && passed;
  }
  passed = (await real()) && passed;
} catch (error) {
  console.error(error.message);
  passed = false;
}
rmSync(scratch, { recursive: true, force: true });
process.exit(passed ? 0 : 1);
