/*-------------------------------------------------------------------------
 *
 * apply.h
 *	  The driver: batches of the log through all stations, exactly once.
 *
 * IDENTIFICATION
 *	  src/apply/apply.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_APPLY_H
#define CDP_APPLY_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* What one batch did. */
typedef struct CdpBatchResult
{
	int64		entries;		/* log entries read, rejected and duplicate ones included */
	int64		reread;			/* entries and identifiers under changed rules */
	int64		changes;		/* rows written to cdp.changes */
	int64		timers;			/* profiles re-evaluated because their time had come */
	bool		more;			/* entries or due timers are left */
	TimestampTz next_timer;		/* when something is due next; DT_NOEND: never, or more is left */
} CdpBatchResult;

/* What a batch may do. */
#define CDP_WORK_ENTRIES 1 /* what has come */
#define CDP_WORK_TIMERS 2 /* profiles and accounts whose time has come */
#define CDP_WORK_HISTORY 4 /* a step of a change of rules, or of a back-fill */
#define CDP_WORK_ALL 7

/* What the last batch was made of, that failed or not. */
typedef struct CdpAttempt
{
	int			entries;
	int64		entry;			/* the first of them */
	int64		xid;
	int			timers;
	int64		profile;		/* the first of them */
	bool		history;
} CdpAttempt;

extern CdpAttempt CdpAttempted;

/*
 * Apply at most max_entries entries and the timers that are due, in the
 * current transaction.  The caller has an SPI-free transaction of isolation
 * level READ COMMITTED; takes the applier's lock first, then snapshots.
 * activate: also when this incarnation has never been applied (false: do
 * nothing then unless a live entry of it exists).  work: CDP_WORK_…
 */
extern CdpBatchResult CdpApplyBatch(int64 max_entries, bool activate, int work);
/* For the process of the applier only. */
extern void CdpApplierKeepMemory(void);

/* From _PG_init: hooks, launcher registration. */
extern void CdpApplyInit(void);

/* apply/worker.c */
extern void CdpWorkerInit(void);

#endif							/* CDP_APPLY_H */
