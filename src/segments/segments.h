/*-------------------------------------------------------------------------
 *
 * segments.h
 *	  Compiled predicates, and who is in which segment.
 *
 * IDENTIFICATION
 *	  src/segments/segments.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_SEGMENTS_H
#define CDP_SEGMENTS_H

#include "traits/traits.h"

typedef struct CdpSegment
{
	int32		id;				/* cdp.segment_definitions.id */
	char	   *name;
	char	   *channel;		/* NOTIFY channel */
	Bitmapset  *traits;			/* indexes of the traits that it reads */
	struct CdpSegmentRules *rules;	/* private: compiled predicate, exit_when */
} CdpSegment;

typedef struct CdpSegmentSet
{
	int64		generation;
	int			nsegments;
	CdpSegment *segments;		/* ordered so that a segment follows those it refers to */
	MemoryContext context;
	struct CdpSegmentColumns *columns;	/* private */
} CdpSegmentSet;

/* Enabled segments as of now; same life as the trait set that it was made for. */
extern CdpSegmentSet *CdpSegmentSetGet(int64 generation, CdpTraitSet *traits);
extern CdpSegment *CdpSegmentById(CdpSegmentSet *set, int32 id);

/* One profile to evaluate. */
typedef struct CdpProfileEval
{
	int64		profile_id;
	CdpProfileValues values;
	int			nbefore;
	int32	   *before;			/* ids of the segments that it is in, ascending */
	int			nafter;			/* out */
	int32	   *after;			/* out, ascending, palloc'd */
} CdpProfileEval;

/*
 * Evaluate all segments for n profiles as of now.  An error in one predicate
 * for one profile leaves that profile out of that segment, is counted in
 * cdp.segment_errors, and stops nobody else.
 */
extern void CdpSegmentsEvaluate(CdpSegmentSet *set, CdpTraitSet *traits,
								CdpProfileEval *profiles, int n, TimestampTz now);

#endif							/* CDP_SEGMENTS_H */
