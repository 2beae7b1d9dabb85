const stages = document.getElementById('stages');
const when = document.getElementById('when');

async function show() {
  try {
    const status = await (await fetch('/v1/status')).json();
    stages.replaceChildren(...status.stages.flatMap((stage) => {
      const name = document.createElement('dt');
      const text = document.createElement('dd');
      name.textContent = `${stage.name}: ${stage.state}`;
      text.textContent = stage.why_waiting ? `waits for ${stage.why_waiting}` : stage.line;
      return [name, text];
    }));
    when.textContent = `Up for ${Math.round(status.seconds)} s.`;
  } catch {
    when.textContent = 'The loop does not answer; trying again.';
  }
  setTimeout(show, 2000);
}

show();
