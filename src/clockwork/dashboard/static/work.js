// Divides the work of the page into small jobs, so that no frame takes long.

const BUDGET = 8; // milliseconds of each frame after which the other jobs wait for the next frame
const KEPT = 1000; // number of frames whose time is kept for the developer tools

/** Jobs that wait for a frame. A job replaces an older job of the same name, so that only the latest state is drawn. */
export class Work {
  constructor() {
    this.jobs = new Map();
    this.planned = 0;
    this.frames = 0;
  }

  add(name, job) {
    this.jobs.set(name, job);
    this.planned ||= requestAnimationFrame(() => this.frame());
  }

  frame() {
    this.planned = 0;
    const begin = performance.now();
    while (this.jobs.size && performance.now() - begin < BUDGET) this.next();
    performance.measure("clockwork", { start: begin });
    this.frames += 1;
    if (this.frames % KEPT === 0) performance.clearMeasures("clockwork");
    if (this.jobs.size) this.planned = requestAnimationFrame(() => this.frame());
  }

  next() {
    const [name, job] = this.jobs.entries().next().value;
    this.jobs.delete(name);
    job();
  }

  /** Do all jobs now. */
  finish() { while (this.jobs.size) this.next(); }
}
