/*-------------------------------------------------------------------------
 *
 * activate.h
 *	  Changes: what is written, numbered and announced.
 *
 * IDENTIFICATION
 *	  src/activate/activate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ACTIVATE_H
#define CDP_ACTIVATE_H

#include "segments/segments.h"

/* Why something changed; the text is what cdp.changes.cause holds. */
typedef enum CdpCause
{
	CDP_CAUSE_ENTRY,
	CDP_CAUSE_TIMER,
	CDP_CAUSE_MERGE,
	CDP_CAUSE_SPLIT,
	CDP_CAUSE_RETRACTION,
	CDP_CAUSE_DEFINITION,
	CDP_CAUSE_ERASURE,
	CDP_CAUSE_CONSENT
} CdpCause;

typedef struct CdpChange
{
	const char *kind;			/* segment_entered, segment_exited, … */
	const char *entity;			/* NULL: profile */
	int64		profile_id;		/* 0: none; of an account: its number */
	const CdpSegment *segment;	/* NULL: none */
	Jsonb	   *payload;		/* NULL: none */
	CdpCause	cause;
	TimestampTz occurred_at;
} CdpChange;

/* Changes of one batch, in order. */
typedef struct CdpChangeList
{
	int			n;
	int			max;
	CdpChange  *items;
} CdpChangeList;

extern CdpChange *CdpChangeAdd(CdpChangeList *list);
/* Write them, numbered from first_seq on. */
extern void CdpChangesWrite(CdpChangeList *list, int32 epoch, int64 first_seq,
							TimestampTz at);
/* Announce them: one message a channel when this transaction commits. */
extern void CdpChangesNotify(CdpChangeList *list, int32 epoch, int64 first_seq,
							 TimestampTz at);
/* account.c */
/* An account as cdp.account() shows it; without last_seen when that is -infinity. */
extern Jsonb *CdpAccountJson(int64 generation, CdpAccountRow *row, TimestampTz now, int nmembers);
extern bool CdpAccountInSegment(const CdpIdentifier *identifier, const char *segment,
								bool *known);
extern const char *CdpCauseName(CdpCause cause);

/* The accounts of a profile at an earlier time, and the values of the first one. */
typedef struct CdpAccountsThen
{
	int naccounts;
	CdpIdentifier **accounts;
	const CdpProfileValues *primary; /* NULL: there is none, or nobody asks */
} CdpAccountsThen;

/*
 * activate/profile.c: what cdp.profile() shows of a profile whose nodes are in
 * memory, at an instant; then NULL: with the accounts of now.
 */
extern Jsonb *CdpProfileJson(int64 generation, const CdpProfileNodes *nodes,
							 const CdpAccountsThen *then, TimestampTz now);
extern Datum cdp_profile(PG_FUNCTION_ARGS);
extern Datum cdp_profile_by_id(PG_FUNCTION_ARGS);

#endif							/* CDP_ACTIVATE_H */
