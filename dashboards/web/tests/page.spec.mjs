// The page in headless Chromium, against a running server:
//
//   npm run test:page -- http://127.0.0.1:8080 [--shots DIR] [--hostile] [--empty]
//
// Asserts that the stages fill, the charts draw, the game moves, nothing is logged as an error, nothing leaves this
// machine, and, with --hostile (the demo server's flag), that markup in names stays text. Needs a Chromium:
// CHROMIUM=/path, else /usr/bin/chromium.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const args = process.argv.slice(2);
const url = args.find((arg) => arg.startsWith('http'));
const has = (flag) => args.includes(flag);
const shots = has('--shots') ? args[args.indexOf('--shots') + 1] : null;
const browserPath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const stages = ['play', 'stream', 'land', 'learn', 'judge', 'swap'];

if (!url) {
  console.error('usage: npm run test:page -- URL [--shots DIR] [--hostile] [--empty]');
  process.exit(2);
}
if (!existsSync(browserPath)) {
  const required = (process.env.FLYWHEEL_REQUIRE ?? '').split(',').includes('chromium');
  console.error(`${required ? 'failed' : 'skipped'}: no Chromium at ${browserPath}; install it with: apt-get install chromium`);
  process.exit(required ? 1 : 0);
}

const profile = mkdtempSync(join(tmpdir(), 'flywheel-page-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: browserPath,
  headless: true,
  viewport: { width: 1480, height: 1000 },
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
const errors = [];
const foreign = [];
const own = new URL(url).host;

async function open(options = {}) {
  const page = await context.newPage();
  page.on('console', (message) => message.type() === 'error' && !options.expectLoss && errors.push(message.text()));
  page.on('pageerror', (error) => errors.push(String(error)));
  const check = (address) => {
    if (!['data:', 'blob:', 'about:'].includes(new URL(address).protocol) && new URL(address).host !== own) foreign.push(address);
  };
  page.on('request', (request) => check(request.url()));
  page.on('websocket', (socket) => check(socket.url()));
  if (options.media) await page.emulateMedia(options.media);
  if (options.viewport) await page.setViewportSize(options.viewport);
  await page.goto(url, { waitUntil: 'load' });
  return page;
}

let passed = 0;
/** Waits for what comes when the machine gets to it; a busy one takes its time. */
async function until(holds, what) {
  for (const deadline = Date.now() + 30_000; !(await holds()); ) {
    assert.ok(Date.now() < deadline, what);
    await new Promise((done) => setTimeout(done, 100));
  }
}

async function test(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok   ${name}`);
  } catch (error) {
    console.error(`FAIL ${name}\n${error.stack ?? error}`);
    process.exitCode = 1;
  }
}

const shot = async (page, name) => {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
};

/** How many different colours a canvas shows, as a measure of "something is drawn". */
const colours = (canvas) =>
  canvas.evaluate((element) => {
    const { data } = element.getContext('2d').getImageData(0, 0, element.width, element.height);
    const seen = new Set();
    for (let at = 0; at < data.length; at += 16) seen.add((data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3]);
    return seen.size;
  });

const page = await open();

await test('all six stages are shown with a state, in order', async () => {
  for (const stage of stages) {
    const card = page.locator(`[data-test=stage-${stage}]`);
    await card.waitFor({ timeout: 10_000 });
    assert.match(await card.innerText(), /running|waiting|stopped|failed/i);
  }
  const order = await page.locator('[data-test^=stage-]').evaluateAll((cards) => cards.map((card) => card.dataset.test));
  assert.deepEqual(order, stages.map((stage) => `stage-${stage}`));
});

await test('a waiting stage says why', async () => {
  for (const card of await page.locator('[data-test^=stage-].waiting').all()) assert.match(await card.innerText(), /waits: \S/);
});

if (has('--empty')) {
  await test('what is not there yet says what it waits for', async () => {
    const text = await page.locator('main').innerText();
    for (const title of ['No champion yet', 'Nothing judged yet', 'No training step yet', 'No version published yet', 'No game to watch']) {
      assert.ok(text.includes(title), title);
    }
  });
  await page.waitForTimeout(1500);
  await shot(page, 'empty');
} else {
  await test('the play stage has a rate', async () => {
    const rate = page.locator('[data-test=stage-play] [data-test=rate]');
    await page.waitForFunction((element) => /\d/.test(element.textContent), await rate.elementHandle(), { timeout: 20_000 });
  });

  await test('the charts are drawn', async () => {
    const plots = page.locator('.plot canvas');
    await page.waitForFunction(() => document.querySelectorAll('.plot canvas').length >= 3, null, { timeout: 30_000 });
    for (const plot of await plots.all()) await until(async () => (await colours(plot)) > 20, 'a chart is blank');
    assert.match(await page.locator('[data-test=score-legend]').innerText(), /(hunter|camper|random)\s+\d+/);
  });

  await test('the game is drawn and moves', async () => {
    const canvas = page.locator('[data-test=game-canvas]');
    await canvas.waitFor({ timeout: 20_000 });
    await page.waitForFunction(() => /tick [1-9]/.test(document.querySelector('[data-test=game-canvas]').getAttribute('aria-label')), null, { timeout: 20_000 });
    const picture = () => canvas.evaluate((element) => element.toDataURL());
    const before = await picture();
    await until(async () => (await colours(canvas)) > 20, 'the field is blank');
    await until(async () => (await picture()) !== before, 'nothing moved in 30 s');
  });

  await test('another game can be chosen by keyboard', async () => {
    const select = page.locator('[data-test=game-select]');
    const values = await select.locator('option').evaluateAll((options) => options.map((option) => option.value));
    if (values.length < 2) return console.log('     (one game only)');
    const before = await select.inputValue();
    await select.focus();
    await page.keyboard.press(values[0] === before ? 'ArrowDown' : 'ArrowUp');
    await page.waitForFunction(([element, old]) => element.value !== old, [await select.elementHandle(), before]);
    assert.notEqual(await select.inputValue(), before);
  });

  await test('the table names versions and the champion', async () => {
    const table = page.locator('[data-test=versions]');
    await table.waitFor({ timeout: 20_000 });
    assert.match(await table.innerText(), /v\d+/);
    assert.match(await page.locator('[data-test=champion]').innerText(), /champion .+ v\d+/);
  });

  await test('a change is asked for first and its refusal is shown', async () => {
    const button = page.locator('[data-test=versions] button').first();
    await button.click();
    const dialog = page.locator('dialog[open]');
    await dialog.waitFor();
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'hidden' });
  });

  if (has('--hostile')) {
    await test('markup in names is shown as text', async () => {
      await page.locator('[data-test=game-select]').selectOption('demo-game-0');
      await page.waitForFunction(() => document.querySelector('[data-test=game-sides]').textContent.includes('<img'));
      const degraded = await page.locator('[data-test=degraded]').innerText();
      assert.ok(degraded.includes('The log is away') && degraded.includes('<img') && /since \d\d:\d\d:\d\d/.test(degraded), degraded);
      assert.equal(await page.locator('img').count(), 0);
      assert.ok((await page.locator('[data-test=versions]').innerText()).includes('<img'));
      assert.notEqual(await page.title(), 'owned');
    });
  }

  await page.locator('[data-test=game-canvas]').waitFor();
  await page.waitForTimeout(shots ? 6000 : 0);
  await shot(page, 'light');

  await test('dark mode is followed, chosen by the button, and kept', async () => {
    const dark = await open({ media: { colorScheme: 'dark' } });
    await dark.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
    const ground = await dark.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(ground, 'rgb(16, 19, 20)');
    await dark.locator('[data-test=game-canvas]').waitFor();
    await dark.waitForTimeout(shots ? 6000 : 500);
    await shot(dark, 'dark');
    await dark.getByRole('button', { name: 'Switch to light colours' }).click();
    await dark.waitForFunction(() => document.documentElement.dataset.theme === 'light');
    await dark.reload();
    await dark.waitForFunction(() => document.documentElement.dataset.theme === 'light');
    await dark.evaluate(() => localStorage.clear());
    await dark.close();
  });

  await test('a narrow screen needs no sideways scrolling', async () => {
    const narrow = await open({ viewport: { width: 390, height: 844 } });
    await narrow.locator('[data-test=versions]').waitFor();
    await narrow.waitForTimeout(shots ? 5000 : 800);
    const [page_, screen] = await narrow.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(page_ <= screen, `${page_} px wide on ${screen} px`);
    await shot(narrow, 'narrow');
    await narrow.close();
  });

  await test('with reduced motion nothing turns', async () => {
    const still = await open({ media: { reducedMotion: 'reduce' } });
    await still.locator('[data-test=stage-play]').waitFor();
    const running = await still.evaluate(() => document.getAnimations().filter((one) => one.playState === 'running').length);
    assert.equal(running, 0);
    await still.close();
  });
}

await test('a lost connection is said, with the time, and comes back by itself', async () => {
  const page = await context.newPage();
  let cut = false;
  await page.routeWebSocket('**/ws', (socket) => {
    if (cut) return socket.close();
    const server = socket.connectToServer();
    socket.onMessage((message) => server.send(message));
    server.onMessage((message) => (cut ? undefined : socket.send(message)));
    setTimeout(() => cut && socket.close(), 0);
    page.cut = () => { cut = true; return socket.close(); };
  });
  await page.goto(url);
  await page.locator('[data-test=stage-play]').waitFor();
  await page.cut();
  await page.locator('[data-test=banner]').waitFor({ timeout: 10_000 });
  assert.match(await page.locator('[data-test=banner]').innerText(), /Disconnected since \d\d:\d\d:\d\d/);
  await shot(page, 'disconnected');
  cut = false;
  await page.locator('[data-test=banner]').waitFor({ state: 'detached', timeout: 15_000 });
  await page.close();
});

await test('no error was logged', async () => assert.deepEqual(errors, []));
await test('no request left this machine', async () => assert.deepEqual(foreign, []));

await context.close();
rmSync(profile, { recursive: true, force: true });
console.log(process.exitCode ? 'FAILED' : `${passed} passed`);
