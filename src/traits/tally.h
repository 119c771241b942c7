/*-------------------------------------------------------------------------
 *
 * tally.h
 *	  How often each value is in a window: what tally.c and tally_tree.c share.
 *
 * IDENTIFICATION
 *	  src/traits/tally.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TALLY_H
#define CDP_TALLY_H

#include "traits/state.h"
#include "utils/datum.h"

/* Equal values that look different; mostly there is one. */
typedef struct TallyImage
{
	Datum		value;
	int64		count;
	struct TallyImage *next;
} TallyImage;

typedef struct TallyNode
{
	struct TallyNode *parent;
	struct TallyNode *left;
	struct TallyNode *right;
	uint32		priority;
	TallyImage	image;
	int64		count;
	/* unique_list: the latest item */
	TimestampTz at;
	text	   *tie;
	Datum		latest;
	/* of the node and all below it */
	int64		nodes;
	int64		weight;			/* sum of counts */
	int64		most;			/* greatest and smallest count */
	int64		least;
} TallyNode;

typedef struct TallyMember
{
	int64		owner;
	int64		stamp;			/* 0: the state has changed since */
	const CdpState *state;		/* it, when its changes are followed */
} TallyMember;

/* What the value was; stays true until "next". */
typedef struct TallyResult
{
	int64		stamp;			/* of the only state; 0: of none that is stored */
	TimestampTz from;
	TimestampTz next;
	bool		has_value;
	Datum		value;
} TallyResult;

typedef struct CdpTally
{
	MemoryContext context;
	Size		size;			/* of the context, as it is counted */
	CdpStateRules rules;
	int32		trait;
	TallyNode  *root;
	TimestampTz asof;
	bool		changing;		/* should there be an error meanwhile */
	bool		broken;			/* cannot be changed rightly */
	TimestampTz transaction;	/* that has changed it last */
	TallyResult result;
	TallyResult before;			/* the one before that */
	int			nmembers;
	TallyMember *members;
} CdpTally;

static inline Datum
CdpTallyCopy(const CdpStateRules *rules, Datum value)
{
	return datumCopy(value, rules->typbyval, rules->typlen);
}

static inline void
CdpTallyFree(const CdpStateRules *rules, Datum value)
{
	if (!rules->typbyval)
		pfree(DatumGetPointer(value));
}

/* tally_tree.c */
extern void CdpTallyAdd(CdpTally *tally, const CdpItem *item);
extern void CdpTallyRemove(CdpTally *tally, const CdpItem *item);
extern bool CdpTallyValue(const CdpTally *tally, Datum *value);
extern void CdpTallyList(const CdpTally *tally, CdpState *into);

#endif							/* CDP_TALLY_H */
