// Light, dark, or as the system says; the choice is kept in this browser only.

export type Choice = 'system' | 'light' | 'dark';

function kept(): Choice {
  try {
    const value = localStorage.getItem('flywheel-theme');
    return value === 'light' || value === 'dark' ? value : 'system';
  } catch {
    return 'system';
  }
}

class Theme {
  choice = $state<Choice>(kept());
  #system = matchMedia('(prefers-color-scheme: dark)');
  #systemDark = $state(this.#system.matches);
  dark = $derived(this.choice === 'dark' || (this.choice === 'system' && this.#systemDark));

  constructor() {
    this.#system.addEventListener('change', () => (this.#systemDark = this.#system.matches));
  }

  toggle(): void {
    const wanted: Choice = this.dark ? 'light' : 'dark';
    this.choice = wanted === (this.#systemDark ? 'dark' : 'light') ? 'system' : wanted;
    try {
      if (this.choice === 'system') localStorage.removeItem('flywheel-theme');
      else localStorage.setItem('flywheel-theme', this.choice);
    } catch {
      // Storage may be switched off; the choice then lasts as long as the page.
    }
  }
}

export const theme = new Theme();

/** The value of a colour of the style sheet. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
