/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The state of one aggregate: what has been folded so far, in memory and
 *	  stored.
 *
 *	  A state is a value of a commutative, associative algebra: folding the
 *	  same items in any order, in any grouping, gives the same bytes.  That is
 *	  what makes late entries, merges and splits cheap, so nothing may enter
 *	  here that depends on order of arrival.
 *
 * Stored form (all integers are varints, signed ones zigzag; values of the
 * folded type are native bytes, their length from the type):
 *
 *	count, exists			n
 *	sum						value
 *	avg						n, value
 *	min, max				value
 *	first, last				at, tie, value
 *	unique_count			n, then n values in order
 *	most_frequent			n, then n (value, count) in order of value
 *	any with a window		n, then n (at, end[, tie][, value]) in order
 *
 * The form that leaves the server (send, text) has the same fields with fixed
 * width integers in network order and values in their types' binary format, so
 * that receiving it validates everything.
 *
 * version	first release	reader
 *	1		1.0				-
 *
 * IDENTIFICATION
 *	  src/traits/state.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_STATE_H
#define CDP_STATE_H

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "traits/traits.h"

#define CDP_STATE_VERSION	1

/* Longest text of a tie that is believed when a state comes from outside. */
#define CDP_MAX_TIE			(1024 * 1024)

/* What a state folds; follows from a definition or from a stored state. */
typedef struct CdpStateRules
{
	CdpAggregate aggregate;
	bool		windowed;
	bool		has_value;		/* false: count and exists */
	bool		has_tie;		/* first and last */
	bool		by_value;		/* unique_count, most_frequent: kept by value */
	Oid			type;			/* of folded values; InvalidOid without */
	int16		typlen;
	bool		typbyval;
	FmgrInfo   *cmp;			/* btree comparison; NULL when there is none */
} CdpStateRules;

typedef struct CdpItem
{
	TimestampTz at;				/* windowed */
	TimestampTz end;
	text	   *tie;			/* windowed first and last */
	Datum		value;
	int64		count;			/* most_frequent */
} CdpItem;

typedef struct CdpState
{
	const CdpStateRules *rules;
	bool		has_value;
	int64		n;
	Datum		value;
	TimestampTz at;
	text	   *tie;
	int			nitems;
	int			maxitems;
	CdpItem    *items;
} CdpState;

/* Bounds-checked reading of stored bytes. */
typedef struct CdpReader
{
	const char *p;
	const char *end;
} CdpReader;

/* state.c */
extern bool CdpAggregateByName(const char *name, CdpAggregate *aggregate);
extern const char *CdpAggregateName(CdpAggregate aggregate);
extern void CdpStateRulesInit(CdpStateRules *rules, CdpAggregate aggregate,
							  bool windowed, Oid type);
extern Oid	CdpStateResultType(const CdpStateRules *rules);
extern CdpState *CdpStateMake(const CdpStateRules *rules);
extern bool CdpStateIsEmpty(const CdpState *state);
extern int	CdpStateAdd(CdpState *state, Datum value, TimestampTz at,
						TimestampTz end, const text *tie);
extern void CdpStateCombine(CdpState *into, const CdpState *from);
extern void CdpStateExpire(CdpState *state, TimestampTz clock);
extern bool CdpStateFinish(const CdpStateRules *rules, CdpState **states,
						   int nstates, TimestampTz now, Datum *value,
						   TimestampTz *next);

/* state_io.c */
extern void CdpPutUInt(StringInfo buf, uint64 value);
extern void CdpPutInt(StringInfo buf, int64 value);
extern uint64 CdpGetUInt(CdpReader *reader);
extern int64 CdpGetInt(CdpReader *reader);
extern int	CdpGetLength(CdpReader *reader);
extern const char *CdpGetBytes(CdpReader *reader, int len);
extern text *CdpGetText(CdpReader *reader);
extern void CdpPutText(StringInfo buf, const text *value);
extern void CdpStateWrite(StringInfo buf, const CdpState *state);
extern CdpState *CdpStateRead(const CdpStateRules *rules, const char *data, int len);
extern void CdpStateSend(StringInfo buf, const CdpState *state);
extern CdpState *CdpStateReceive(StringInfo buf);
extern void CdpStateDamaged(const char *detail);
extern text *CdpReceiveText(StringInfo buf, int maxlen);
extern TimestampTz CdpReceiveTime(StringInfo buf);
extern void CdpHexToBuffer(StringInfo buf, const char *hex, const char *type);
extern char *CdpBufferToHex(StringInfo buf);

#endif							/* CDP_STATE_H */
