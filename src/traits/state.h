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
 * folded type are native bytes, their length from the type).  First the options
 * of the aggregate, see CdpStateParameters: integers, then a time zone if it
 * has one.  Then
 *
 *	count, exists			n
 *	sum						value
 *	avg						n, value
 *	stddev					n, value, sum of squares
 *	min, max				value
 *	first, last				at, tie, value
 *	first_time, last_time	n, at
 *	rate					n, at
 *	list					n, then n (at, tie, value) in order
 *	unique_list				n, then n (value, at, tie) in order of value
 *	unique_count			n, then n values in order; or 0, registers
 *	percentile				n, then n (value, count) in order of value; or 0,
 *							n, then n (bucket, count) in order
 *	most_, least_frequent	n, then n (value, count) in order of value
 *	sessions, session_...	n, then n (at, end, count) in order
 *	streak, longest_streak	n, then n (first, last) in order
 *	any with a window		n, then n (at[, begin], end[, tie][, value]) in order;
 *							or 0, the chunks that are elsewhere (chunk.c), and that
 *	with a granularity		n, then n (at[, begin], end, length, state) in order
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
#include "pgtime.h"
#include "traits/traits.h"

#define CDP_STATE_VERSION	1

/* Longest text of a tie that is believed when a state comes from outside. */
#define CDP_MAX_TIE			(1024 * 1024)

/* Distinct values that are kept before a sketch takes their place. */
#define CDP_EXACT_VALUES	1000
#define CDP_SKETCH_REGISTERS	4096

/* Elements of a list: by default, and at most; and bytes of one. */
#define CDP_LIST_SIZE		100
#define CDP_MAX_LIST_SIZE	1000
#define CDP_MAX_LIST_VALUE	8000

/* Sessions end after half an hour without entries, unless told otherwise. */
#define CDP_SESSION_GAP		(INT64CONST(1800) * USECS_PER_SEC)
#define CDP_MAX_SESSION_GAP	(INT64CONST(366) * USECS_PER_DAY)

#define CDP_MAX_GRANULARITY	(INT64CONST(366) * USECS_PER_DAY)

#define CDP_MAX_PARAMETERS	3

/* Of consent: a hash of the identifier that a word is about. */
#define CDP_CONSENT_KEY		8

typedef enum CdpShape
{
	CDP_SHAPE_NONE,
	CDP_SHAPE_SCALAR,			/* n, at, tie, value */
	CDP_SHAPE_VALUES,			/* items in order of value, each value once */
	CDP_SHAPE_LIST,				/* the last items in order of (at, tie) */
	CDP_SHAPE_SPANS				/* spans of time, in order and apart */
} CdpShape;

/* What a state folds; follows from a definition or from a stored state. */
typedef struct CdpStateRules
{
	CdpAggregate aggregate;
	CdpShape	shape;			/* without a window */
	bool		windowed;
	bool		delayed;		/* the window begins later than the entry */
	bool		has_n;			/* scalar: a number of entries is kept */
	bool		has_at;			/* scalar: a time is kept */
	bool		has_tie;		/* first, last, lists */
	bool		has_value;		/* values are kept */
	bool		has_counts;		/* values and spans: counts are kept */
	bool		keyed;			/* values are the same when their first CDP_CONSENT_KEY bytes are */
	Oid			type;			/* of folded values; InvalidOid without */
	int16		typlen;
	bool		typbyval;
	FmgrInfo   *cmp;			/* btree comparison; NULL when there is none */
	FmgrInfo   *hash;			/* extended hash; NULL when there is none */
	/* options */
	bool		exact;			/* never a sketch */
	bool		population;		/* stddev */
	bool		weeks;			/* streaks */
	bool		utc;			/* time zone without changes */
	bool		watched;		/* somebody wants to know when it changes by itself */
	int32		size;			/* lists */
	int32		ppm;			/* percentile */
	int64		gap;			/* spans closer than this are one */
	int64		granularity;	/* of a window, 0: exact */
	struct CdpStateRules *cell; /* with a granularity: of what a cell adds up to */
	const char *timezone;		/* rate, streaks */
	pg_tz	   *tz;
} CdpStateRules;

typedef struct CdpItem
{
	TimestampTz at;				/* windowed; list; spans: start; sketch: bucket */
	TimestampTz begin;			/* windowed */
	TimestampTz end;			/* windowed; spans */
	text	   *tie;			/* where order of entries matters */
	Datum		value;			/* with a granularity: CdpCellSum() */
	int64		count;
} CdpItem;

typedef struct CdpState
{
	const CdpStateRules *rules;
	bool		has_value;
	bool		sketched;		/* percentile: items are buckets */
	int64		n;
	Datum		value;
	Datum		value2;			/* stddev: sum of squares */
	TimestampTz at;
	text	   *tie;
	uint8	   *registers;		/* unique_count, sketched */
	int			nitems;
	int			maxitems;
	CdpItem    *items;
	struct CdpChunks *chunks;	/* windowed: items before those; NULL: none */

	/* spans: more of them between the items, too far from all to grow */
	int64		closed;
	int64		closed_length;	/* their sum; of streaks, the longest */
	int64		closed_count;
} CdpState;

/* Items of a window that stand in a row of their own, see chunk.c. */
typedef struct CdpChunk
{
	int32		number;			/* of the row */
	int32		nitems;
	TimestampTz first;			/* the items' at, begin and end: the earliest … */
	TimestampTz begin;
	TimestampTz end;
	TimestampTz last;			/* … and the latest, each for itself */
	TimestampTz last_begin;
	TimestampTz last_end;
	CdpState   *sum;			/* what they add up to without a window; NULL: not
								 * known, or not kept */
	CdpState   *items;			/* NULL: not read */
	bool		dirty;			/* to be written */
} CdpChunk;

typedef struct CdpChunks
{
	int64		owner;			/* node and … */
	int32		trait;			/* … trait in whose state they are */
	CdpStateRules plain;		/* of the sums */
	int64		stamp;			/* another one whenever it is stored; 0: has changed */
	bool		followed;		/* a tally knows of the change */
	int			n;
	int			max;
	CdpChunk   *chunks;			/* in order of time, and apart */
	int			ngone;
	int32	   *gone;			/* numbers of rows to be deleted */
} CdpChunks;

/* Bounds-checked reading of stored bytes. */
typedef struct CdpReader
{
	const char *p;
	const char *end;
} CdpReader;

/*
 * Numbers of any length (varints): seven bits a byte, the lowest first.  Most of
 * them are small.
 */
extern void CdpPutLongUInt(StringInfo buf, uint64 value);
extern uint64 CdpGetLongUInt(CdpReader *reader);

static inline void
CdpPutUInt(StringInfo buf, uint64 value)
{
	if (value < 0x80)
		appendStringInfoCharMacro(buf, (char) value);
	else
		CdpPutLongUInt(buf, value);
}

static inline void
CdpPutInt(StringInfo buf, int64 value)
{
	CdpPutUInt(buf, ((uint64) value << 1) ^ (uint64) (value >> 63));
}

static inline uint64
CdpGetUInt(CdpReader *reader)
{
	if (reader->p < reader->end && (*reader->p & 0x80) == 0)
		return (uint8) *reader->p++;
	return CdpGetLongUInt(reader);
}

static inline int64
CdpGetInt(CdpReader *reader)
{
	uint64 value = CdpGetUInt(reader);

	return (int64) (value >> 1) ^ -(int64) (value & 1);
}

/* aggregate.c */
extern bool CdpAggregateByName(const char *name, CdpAggregate *aggregate);
extern const char *CdpAggregateName(CdpAggregate aggregate);
extern char *CdpAggregateNames(void);
extern bool CdpAggregateFolds(int aggregate);
extern bool CdpAggregateNeedsValue(CdpAggregate aggregate);
extern bool CdpAggregateYieldsValue(CdpAggregate aggregate);
extern Oid	CdpAggregateValueType(CdpAggregate aggregate);
extern void CdpStateRulesInit(CdpStateRules *rules, CdpAggregate aggregate,
							  bool windowed, Oid type);
extern void CdpStateRulesPlain(CdpStateRules *plain, const CdpStateRules *rules);
extern void CdpStateRulesOptions(CdpStateRules *rules, const Jsonb *options,
								 const char *timezone, const char *const *others);
extern Interval *CdpIntervalOption(const char *name, const JsonbValue *v);
extern void CdpCheckGranularity(const CdpStateRules *rules, const Interval *within);
extern bool CdpStateRulesSame(const CdpStateRules *a, const CdpStateRules *b);
extern int	CdpStateParameters(const CdpStateRules *rules, int64 *parameters,
							   const char **timezone);
extern int	CdpStateParametersExpected(const CdpStateRules *rules, bool *has_timezone);
extern bool CdpStateParametersSet(CdpStateRules *rules, const int64 *parameters,
								  const char *timezone);
extern Oid	CdpStateResultType(const CdpStateRules *rules);

/* state.c */
extern CdpState *CdpStateMake(const CdpStateRules *rules);
extern bool CdpStateIsEmpty(const CdpState *state);
extern int	CdpStateAdd(CdpState *state, Datum value, TimestampTz at,
						TimestampTz begin, TimestampTz end, const text *tie);
extern void CdpStateCombine(CdpState *into, const CdpState *from);
extern void CdpStateExpire(CdpState *state, TimestampTz clock);
extern int	CdpStateAddItem(CdpState *state, CdpItem *item);
extern void CdpStateReserve(CdpState *state, int64 needed);
extern void CdpStateClose(CdpState *state);
extern int	CdpCompareValues(const CdpStateRules *rules, Datum a, Datum b);
extern int	CdpCompareImages(const CdpStateRules *rules, Datum a, Datum b);
extern int	CdpCompareItems(const CdpStateRules *rules, const CdpItem *a, const CdpItem *b);
extern const CdpItem *CdpStateOldest(const CdpState *state);

/* What the entries of a cell add up to. */
static inline CdpState *
CdpCellSum(const CdpItem *item)
{
	return (CdpState *) DatumGetPointer(item->value);
}

/* coarse.c */
extern TimestampTz CdpCellStart(const CdpStateRules *rules, TimestampTz at);
extern void CdpCellRules(CdpStateRules *rules);
extern void CdpCellAdd(CdpState *state, Datum value, TimestampTz at,
					   TimestampTz begin, TimestampTz end, const text *tie);
extern void CdpCellsCombine(CdpState *into, const CdpState *from);
extern void CdpCellsWrite(StringInfo buf, const CdpState *state);
extern void CdpCellsRead(CdpReader *reader, CdpState *state);
extern void CdpCellsSend(StringInfo buf, const CdpState *state);
extern void CdpCellsReceive(StringInfo buf, CdpState *state);

/* chunk.c */
extern bool CdpChunksAddItem(CdpState *state, const CdpItem *item);
extern void CdpChunksFinish(CdpState **states, int nstates, int which, CdpState *into,
							TimestampTz now, TimestampTz *next);
extern CdpState *CdpChunkItems(CdpState *state, CdpChunk *chunk, MemoryContext context);
extern void CdpChunksTakeBack(CdpState *into, CdpState *from);
extern void CdpChunksExpire(CdpState *state, TimestampTz clock);
extern void CdpChunksWrite(StringInfo buf, const CdpState *state);
extern void CdpChunksRead(CdpReader *reader, CdpState *state);
extern void CdpChunksSend(StringInfo buf, const CdpState *state);
extern void CdpChunksReceive(StringInfo buf, CdpState *state);

/* tally.c */
extern bool CdpTallyFinish(CdpState **states, int nstates, CdpState *into, TimestampTz now,
						   Datum *value, bool *has_value, TimestampTz *next);
extern void CdpTallyFollow(CdpState *state, const CdpItem *item);
extern void CdpTallyStored(CdpState *state, TimestampTz clock);
extern void CdpTalliesForget(void);

/* trait_state.c: a value of the type */
extern struct varlena *CdpTraitStatePack(const CdpState *state);
extern CdpState *CdpTraitStateUnpack(const CdpStateRules *rules, struct varlena *packed);

/* finish.c */
extern bool CdpStateInside(const CdpState *state, CdpState *into, TimestampTz now,
						   TimestampTz *next);
extern int64 CdpPercentileRank(const CdpStateRules *rules, int64 n);
extern bool CdpStateFinish(const CdpStateRules *rules, CdpState **states,
						   int nstates, TimestampTz now, Datum *value,
						   TimestampTz *next);

/* consent.c */
extern bool CdpConsentFinish(const CdpState *state, TimestampTz now, Datum *value,
							 TimestampTz *next);

/* sketch.c */
extern void CdpSketchAddValue(uint8 *registers, const CdpStateRules *rules, Datum value);
extern bool CdpSketchValid(const uint8 *registers);
extern int64 CdpSketchEstimate(const uint8 *registers);
extern int64 CdpSketchBucket(Datum value);
extern bool CdpSketchBucketValid(int64 bucket);
extern Datum CdpSketchMiddle(int64 bucket);

/* calendar.c */
extern TimestampTz CdpLocalShift(TimestampTz at, const Interval *interval,
								 pg_tz *zone, bool utc);
extern int64 CdpLocalDay(TimestampTz at, const CdpStateRules *rules);
extern int64 CdpLocalPeriod(TimestampTz at, const CdpStateRules *rules);
extern TimestampTz CdpNextLocalDay(TimestampTz at, const CdpStateRules *rules);
extern TimestampTz CdpLocalPeriodStart(TimestampTz now, int64 period,
									   const CdpStateRules *rules);

/* state_io.c */
extern int	CdpGetLength(CdpReader *reader);
extern const char *CdpGetBytes(CdpReader *reader, int len);
extern text *CdpGetText(CdpReader *reader);
extern void CdpPutText(StringInfo buf, const text *value);
extern void CdpStateWrite(StringInfo buf, const CdpState *state);
extern CdpState *CdpStateRead(const CdpStateRules *rules, const char *data, int len);
extern uint8 CdpStateCode(const CdpStateRules *rules);
extern CdpState *CdpStateReadAny(uint8 code, Oid type, bool empty,
								 const char *data, int len);
extern void CdpStateRulesWrite(StringInfo buf, const CdpStateRules *rules);
extern void CdpStateSend(StringInfo buf, const CdpState *state);
extern CdpState *CdpStateReceive(StringInfo buf);
extern void CdpStateDamaged(const char *detail);
extern text *CdpReceiveText(StringInfo buf, int maxlen);
extern TimestampTz CdpReceiveTime(StringInfo buf);
extern TimestampTz CdpReceiveEnd(StringInfo buf);
extern void CdpHexToBuffer(StringInfo buf, const char *hex, const char *type);
extern char *CdpBufferToHex(StringInfo buf);

#endif							/* CDP_STATE_H */
