// Colours of the canvas. A game looks the same in both modes: the ground is always dark.

export const ground = {
  soil: '#1d2326',
  soilGrain: '#232a2e',
  water: '#1f4e79',
  waterWave: '#2f6ea5',
  brick: '#9a4f32',
  brickLight: '#b5654a',
  mortar: '#4f2a1d',
  grass: 'rgba(74, 140, 84, 0.78)',
  grassBlade: 'rgba(118, 186, 116, 0.8)',
  steel: '#8f9ba6',
  steelLight: '#c3ccd4',
  steelDark: '#5d6872',
  aiSpawn: 'rgba(45, 212, 191, 0.16)',
  playerSpawn: 'rgba(96, 165, 250, 0.16)',
};

export const side = {
  ai: { body: '#2dd4bf', dark: '#0f766e', light: '#99f6e4' },
  player: { body: '#60a5fa', dark: '#1d4ed8', light: '#bfdbfe' },
};

export const bullet = '#fff7d6';
export const spark = '#ffd166';
export const blast = '#ff7b54';
export const flag = '#facc15';
