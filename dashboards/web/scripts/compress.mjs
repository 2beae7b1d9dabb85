// Puts a .br and a .gz beside every text file of the build, and holds the first load to its budget.
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const dist = new URL('../dist/', import.meta.url).pathname;
const budgetBytes = 200 * 1024;

let total = 0;
for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath ?? entry.path, entry.name);
  if (!entry.isFile() || !/\.(html|js|css|svg|json|txt)$/.test(entry.name)) continue;
  const plain = readFileSync(path);
  const brotli = brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  const gzip = gzipSync(plain, { level: 9 });
  total += Math.min(gzip.length, statSync(path).size);
  for (const [suffix, packed] of [['.br', brotli], ['.gz', gzip]]) {
    if (packed.length < plain.length) writeFileSync(path + suffix, packed);
    else rmSync(path + suffix, { force: true });
  }
}
const size = `${(total / 1024).toFixed(1)} KiB gzip`;
if (total > budgetBytes) {
  console.error(`the page is ${size}, over its budget of 200 KiB`);
  process.exit(1);
}
console.log(`the page is ${size}, within its budget of 200 KiB`);
