import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// The address of a running loop, for `npm run dev`.
const loop = process.env.FLYWHEEL_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
  plugins: [svelte()],
  // Nothing may be inlined: the page is served under `default-src 'self'`.
  build: { assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: 'es2022', chunkSizeWarningLimit: 400 },
  server: {
    host: '127.0.0.1',
    proxy: { '/v1': loop, '/ws': { target: loop.replace(/^http/, 'ws'), ws: true, changeOrigin: true } },
  },
  test: { include: ['src/**/*.test.ts'] },
});
