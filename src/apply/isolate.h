/*-------------------------------------------------------------------------
 *
 * isolate.h
 *	  Entries, and profiles whose time has come, that raise errors.
 *
 * IDENTIFICATION
 *	  src/apply/isolate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ISOLATE_H
#define CDP_ISOLATE_H

#include "apply/apply.h"
#include "collect/collect.h"

/* So many entries in a row are put aside at once; then there are pauses. */
#define CDP_ISOLATED_IN_A_ROW 10

/* How whoever applies narrows an error down; limit and work are set at first. */
typedef struct CdpNarrowing
{
	int			limit;			/* of the next batch */
	int			work;			/* what it may do … */
	bool		no_history;		/* … without a step of history */
	ErrorData  *error;			/* for which it puts an entry aside, NULL: none */
	int64		entry;			/* that one */
	int64		xid;
	int			careful;		/* so many entries and timers are taken one at a time */
	int			idle;			/* turns with nothing of what may be done, meanwhile */
	int			in_a_row;		/* put aside since another was applied */
	int			resting;		/* profiles that were left alone */
} CdpNarrowing;

typedef enum CdpFailure
{
	CDP_FAILURE_AGAIN, /* try what is narrower, at once */
	CDP_FAILURE_HISTORY, /* history cannot go on, what comes can */
	CDP_FAILURE_STUCK /* nothing can: wait */
} CdpFailure;

/* A batch as CdpApplyBatch, narrowed. */
extern CdpBatchResult CdpNarrowApply(CdpNarrowing *narrow, int64 max_entries, bool activate);
/* It has failed, and is rolled back. */
extern CdpFailure CdpNarrowFailed(CdpNarrowing *narrow, const ErrorData *error);
/* It is applied; returns whether an entry was put aside. */
extern bool CdpNarrowSucceeded(CdpNarrowing *narrow, CdpBatchResult *result);

/*
 * Is it an error of the server or the installation, that says nothing about the
 * entries?
 */
extern bool CdpErrorIsTransient(int sqlstate);
/* Know the entries that are put aside; before any is judged. */
extern void CdpIsolatedLoad(int64 generation);
/* CdpEntryCheck, and: is it put aside?  CdpGraphCheck() asks tracking plans then. */
extern bool CdpEntryJudge(CdpEntry *entry);
/* The profiles that are left alone though their time has come, and until when at least; -1: all. */
extern int CdpTimersResting(int64 **profiles, TimestampTz *until);
/* Leave a profile alone until then. */
extern void CdpTimerRest(int64 profile, TimestampTz until);

#endif /* CDP_ISOLATE_H */
