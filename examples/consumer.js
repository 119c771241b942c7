#!/usr/bin/env node
/*
 * A consumer of cdp's changes, with pg.
 *
 *     SELECT cdp.subscribe('mailer', '{"segment": "warm_leads"}');
 *     node consumer.js mailer                  # connects by PGHOST, PGDATABASE, ...
 *
 * NOTIFY wakes it, cdp.poll() says what has happened: what was missed while it
 * was away, or while the server was, is there when it comes back.  Each change
 * is printed as one line of JSON; put your own work into handle().  A change may
 * come twice (a crash between work and acknowledgement): (epoch, seq) tells.
 */
'use strict';

const { Client } = require('pg');

const BATCH = 100;
const LOOK_EVERY = 30000;       // ms without a notification
const UNDEFINED_OBJECT = '42704';

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function handle(change) {
  process.stdout.write(JSON.stringify(change) + '\n');
}

// Work off what there is; true when something has to be tried again.
async function drain(client, name) {
  for (;;) {
    // bigint comes as a string: JavaScript's numbers end at 2^53
    const { rows } = await client.query(
      'SELECT epoch, seq, kind, segment, profile_id, cause, payload FROM cdp.poll($1, $2)', [name, BATCH]);
    if (rows.length === 0) return false;
    let done = null;
    for (const change of rows) {
      try {
        await handle(change);
      } catch (error) {
        if (done) await client.query('SELECT cdp.ack($1, $2::bigint, $3)', [name, done.seq, done.epoch]);
        await client.query('SELECT cdp.nack($1, $2::bigint, $3, epoch => $4)',
          [name, change.seq, String(error), change.epoch]);
        return true;
      }
      done = change;
    }
    await client.query('SELECT cdp.ack($1, $2::bigint, $3)', [name, done.seq, done.epoch]);
  }
}

async function consume(connectionString, name) {
  const client = new Client(connectionString ? { connectionString } : {});
  let notified = false;
  let wake = () => {};
  let fail;
  const lost = new Promise((_, reject) => { fail = reject; });
  lost.catch(() => {});
  client.on('error', fail);
  client.on('end', () => fail(new Error('the connection has ended')));
  client.on('notification', () => { notified = true; wake(); });
  await client.connect();
  try {
    // first listen, then look: nothing falls in between
    await client.query('LISTEN cdp');
    for (;;) {
      notified = false;
      const again = await Promise.race([drain(client, name), lost]);
      if (notified) continue;
      let timer;
      const woken = new Promise((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, again ? 1000 : LOOK_EVERY);
      });
      try {
        await Promise.race([woken, lost]);
      } finally {
        clearTimeout(timer);
      }
    }
  } finally {
    await client.end().catch(() => {});
  }
}

async function main() {
  const [name, connectionString] = process.argv.slice(2);
  if (!name) {
    console.error('usage: consumer.js subscription [connection string]');
    process.exit(1);
  }
  process.on('SIGTERM', () => process.exit(0));
  let pause = 100;
  for (;;) {
    const started = Date.now();
    try {
      await consume(connectionString, name);
    } catch (error) {
      console.error(`consumer.js: ${error.message}`);
      if (error.code === UNDEFINED_OBJECT) process.exit(1);
    }
    pause = Date.now() - started > 60000 ? 100 : Math.min(pause * 2, 30000);
    await sleep(pause * (0.5 + Math.random() / 2));
  }
}

main();
