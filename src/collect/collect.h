/*-------------------------------------------------------------------------
 *
 * collect.h
 *	  The log: what an entry is, and how the applier is woken.
 *
 * IDENTIFICATION
 *	  src/collect/collect.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_COLLECT_H
#define CDP_COLLECT_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "direct.h"

/* Columns of cdp.events, in order. */
typedef enum CdpEventsColumn
{
	CDP_EVENTS_ID = 0,
	CDP_EVENTS_MESSAGE_ID,
	CDP_EVENTS_SOURCE,
	CDP_EVENTS_TYPE,
	CDP_EVENTS_EVENT,
	CDP_EVENTS_IDENTIFIERS,
	CDP_EVENTS_PROPERTIES,
	CDP_EVENTS_CONTEXT,
	CDP_EVENTS_OCCURRED_AT,
	CDP_EVENTS_RECEIVED_AT,
	CDP_EVENTS_XID,
	CDP_EVENTS_INCARNATION,
	CDP_EVENTS_NATTS
} CdpEventsColumn;

/* The select list that yields them, for SPI queries on "cdp.events e". */
#define CDP_EVENTS_COLUMNS \
	"e.id, e.message_id, e.source, e.type, e.event, e.identifiers, " \
	"e.properties, e.context, e.occurred_at, e.received_at, e.xid, " \
	"e.incarnation"

typedef enum CdpEntryType
{
	CDP_ENTRY_UNKNOWN = 0,
	CDP_ENTRY_TRACK,
	CDP_ENTRY_IDENTIFY,
	CDP_ENTRY_PAGE,
	CDP_ENTRY_SCREEN,
	CDP_ENTRY_GROUP,
	CDP_ENTRY_ALIAS,
	CDP_ENTRY_MERGE,
	CDP_ENTRY_SPLIT,
	CDP_ENTRY_UNDO,
	CDP_ENTRY_DETACH,
	CDP_ENTRY_RELEASE,
	CDP_ENTRY_LEAVE,
	CDP_ENTRY_ERASE,
	CDP_ENTRY_CONSENT
} CdpEntryType;

/* Is it a decision about identifiers, rather than something that happened? */
#define CDP_ENTRY_DECIDES(type) \
	((type) == CDP_ENTRY_MERGE || (type) == CDP_ENTRY_SPLIT || \
	 (type) == CDP_ENTRY_DETACH)

/* Does it name no identifier that it would be about? */
#define CDP_ENTRY_NAMES_NOBODY(type) \
	((type) == CDP_ENTRY_UNDO || (type) == CDP_ENTRY_RELEASE || \
	 (type) == CDP_ENTRY_ERASE)

/* Entries further ahead of their receipt than this count at their receipt. */
#define CDP_MAX_AHEAD		(5 * USECS_PER_MINUTE)

/*
 * An entry in memory.  values/isnull is the row of cdp.events with every
 * varlena detoasted and occurred_at replaced by the effective time, so that
 * expressions can be evaluated over it as it stands.
 */
typedef struct CdpEntry
{
	Datum		values[CDP_EVENTS_NATTS];
	bool		isnull[CDP_EVENTS_NATTS];
	int64		id;
	int64		xid;
	int32		incarnation;
	CdpEntryType type;
	TimestampTz at;				/* effective time, see cdp.effective_at() */
	TimestampTz received_at;
	text	   *source;			/* never NULL: '' when the row has none */
	text	   *message_id;		/* NULL when the client gave none */
	text	   *event;			/* may be NULL */
	ArrayType  *identifiers;	/* may be NULL */
	Jsonb	   *properties;		/* may be NULL */
	text	   *tie;			/* source, \001, message id: breaks ties of at */

	/* filled in by identity */
	int64		owner;			/* node number, 0 when nobody's */
	struct CdpNode *owner_node; /* the node in the graph that looked */
	int			nnodes;
	int64	   *nodes;			/* all nodes that it names, hub first */
	int			ncandidates;	/* usable identifiers, strongest first */
	struct CdpCandidate *candidates;	/* private to identity/graph.c */
	bool		accounts_known;	/* the two that follow are filled in */
	int			naccounts;		/* accounts that it names, each once */
	struct varlena **accounts;	/* their canonical identifiers */

	/* filled in by apply */
	bool		unread;			/* its properties are not in the log and cannot be read */
	bool		referenced;		/* they were read from a row that the log refers to */
	bool		by_plans;		/* tracking plans have a say */
	struct CdpPlan *plan;		/* the one that judges it, … */
	struct List *violations;	/* … and what it finds, if more follows than a number */
	Jsonb	   *whole;			/* properties as in values, if a plan leaves some out; or NULL */
	bool		undone;			/* counts for nothing because an undo names it */
	bool		counted;		/* did until it was withdrawn: no policy kept it from counting */
	bool		withheld;		/* a policy keeps it from counting … */
	bool		held;			/* … unless it is released */
	const struct CdpKind *withheld_by;	/* whose policy */
	const char *reject_reason;	/* why it has no effect; NULL when it has */
	const char *reject_detail;
	int			reject_sqlstate;
} CdpEntry;

/* collect/entry.c */
extern CdpEntryType CdpEntryTypeFromText(const text *type);
/* When an entry counts; infinite occurred_at is returned as it is. */
extern TimestampTz CdpEffectiveAt(bool has_occurred_at, TimestampTz occurred_at,
								  TimestampTz received_at);
/* Fill an entry from a row of cdp.events; copies varlenas into the current context. */
extern void CdpEntryFromRow(CdpEntry *entry, Datum *values, bool *isnull);
/*
 * collect/log_scan.c: entries in the order of (xid, id), of one transaction with ids
 * above one, or of transactions between two; NULL when a statement has to read them.
 * A row is one of cdp.events.
 */
typedef struct CdpLogScan CdpLogScan;
extern CdpLogScan *CdpLogScanBegin(void);
extern int	CdpLogScanTransaction(CdpLogScan *log, int64 xid, int64 id, int max,
								  CdpDirectRow row, void *arg);
extern int	CdpLogScanBetween(CdpLogScan *log, int64 above, int64 below, int max,
							  CdpDirectRow row, void *arg);
extern void CdpLogScanEnd(CdpLogScan *log);
/*
 * collect/reference.c: read the properties of entries whose table is attached
 * with copy => false; sets unread.
 */
extern void CdpEntriesRead(CdpEntry **entries, int n);
extern void CdpEntriesReadAll(CdpEntry *entries, int n);
/* May it have said what cannot be read any more?  It has been read as above. */
extern bool CdpEntryUnknown(const CdpEntry *entry);
/* The key of the row that properties refer to; NULL when they are no reference. */
extern text *CdpReferenceKey(const Jsonb *json);
/*
 * What properties say, which may be a reference; {} when it cannot be read.
 * flinfo: of the SQL function that asks for it, again and again.
 */
extern Jsonb *CdpReferenceRead(Jsonb *properties, text *source, int64 entry, FmgrInfo *flinfo);
/* The tie of an entry with this source and message id. */
extern text *CdpMakeTie(const text *source, const text *message_id);
/* Compare two entries by (at, tie); < 0, 0, > 0. */
extern int	CdpEntryCompare(const CdpEntry *a, const CdpEntry *b);
extern int	CdpOrderCompare(TimestampTz at_a, const text *tie_a,
							TimestampTz at_b, const text *tie_b);
/* The hash that the log's index on duplicates holds (collect/log.c). */
extern int64 CdpMessageHash(const text *source, const text *message_id);
/* granted, denied, unset as g, d, u; 0 for what is none of them. */
extern char CdpConsentWordFromText(const JsonbValue *state);
/* Judge what can be judged from the entry alone; sets reject_reason. */
extern bool CdpEntryCheck(CdpEntry *entry);

/*
 * Append one row to cdp.events as the caller-independent owner; returns its
 * message id (palloc'd).  NULL arguments take the column's default.
 */
extern text *CdpLogAppend(const char *type, text *event, ArrayType *identifiers,
						  Jsonb *properties, Jsonb *context,
						  const TimestampTz *occurred_at, text *message_id,
						  text *source);

/*
 * collect/track.c: log a call that ends with identifiers (argument number
 * tail), context, occurred_at, message_id and source, as cdp.track() does;
 * returns the message id.
 */
extern Datum CdpLogSaid(FunctionCallInfo fcinfo, const char *name, CdpEntryType type,
						Jsonb *body, text *user_id, text *anonymous_id, int tail);

/* collect/wake.c: the applier's latch */

/* Type of the background worker that applies the log (pg_stat_activity shows it). */
#define CDP_APPLIER_TYPE	"cdp applier"

extern void CdpWakeAtCommit(void);	/* set the applier's latch when this transaction commits */
extern void CdpWakeNow(Oid dboid);	/* set it at once */
extern pid_t CdpWakeWorkerPid(Oid dboid);	/* pid of the database's applier, 0 if none */

/*
 * Called instead when a database has no applier, also at commit: must not
 * raise an error.  Set by the launcher.
 */
typedef void (*CdpWakeNobodyHookType) (Oid dboid);
extern CdpWakeNobodyHookType CdpWakeNobodyHook;

#endif							/* CDP_COLLECT_H */
