/*-------------------------------------------------------------------------
 *
 * asof.h
 *	  A question about an earlier time, or about what has not been applied yet,
 *	  shared by asof.c, asof_entries.c, asof_profile.c,
 *	  fresh.c and account_asof.c.
 *
 * IDENTIFICATION
 *	  src/apply/asof.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ASOF_H
#define CDP_ASOF_H

#include "apply/batch.h"
#include "cdp.h"

/* An entry of the log that may bear on the question. */
typedef struct CdpLogItem
{
	int64		id;				/* hash key, with xid */
	int64		xid;
	CdpEntry   *entry;
	bool		proven;			/* counts now, so no applied copy of it is better */
	bool		pending;		/* has not been applied */
	bool		best;			/* of the copies of its message the one that counts */
	bool		taken;			/* names an identifier of the cluster */
} CdpLogItem;

/* A node of the sealed graph. */
typedef struct CdpMember
{
	int64		id;				/* hash key */
	bool		known;			/* belongs to the cluster */
	bool		expanded;		/* the entries that name it have been looked for */
	List	   *items;			/* those found so far */
} CdpMember;

typedef struct CdpAsOf
{
	TimestampTz at;
	TimestampTz known_at;
	CdpKindSet *kinds;
	bool		by_index;		/* the present state leads to all entries */
	bool		changing;		/* a change of the rules is on its way */
	bool		unapplied;		/* entries that have not been applied count, too */
	/* Is an entry wanted that names this account, or such an address?  NULL: none is. */
	bool		(*wanted) (void *arg, CdpIdentifier *canonical, const CdpKind *kind);
	void	   *wanted_arg;
	CdpCursorSet *cursors;
	CdpGraph   *graph;
	HTAB	   *items;
	HTAB	   *members;
	List	   *fresh;			/* items that are not in the graph yet */
	List	   *pending;		/* members that are known and not expanded */
	List	   *sought;			/* items whose copies and undos have not been sought */
	int			walked;			/* those of them whose identifiers are known */
} CdpAsOf;

/* What a call needs around it. */
typedef struct CdpAsOfCall
{
	CdpUserContext user;
	int			nest_level;		/* of settings: guards are those of another time */
	MemoryContext context;
	MemoryContext old;
} CdpAsOfCall;

/* asof.c */
extern void CdpAsOfBeginCall(CdpAsOfCall *call);
extern void CdpAsOfEndCall(CdpAsOfCall *call);
/* What a function makes in such a call, which writes nothing; NULL: none. */
extern Datum CdpAsOfJson(FunctionCallInfo fcinfo, Jsonb *(*make)(FunctionCallInfo fcinfo));
extern CdpAsOf *CdpAsOfBegin(TimestampTz at, TimestampTz known_at);
/* Forget what was collected; what comes is in the current context. */
extern void CdpAsOfEmpty(CdpAsOf *asof);
extern void CdpAsOfCheckKind(CdpAsOf *asof, const CdpIdentifier *raw);
extern bool CdpAsOfHidden(const CdpIdentifier *raw);
extern CdpNode *CdpAsOfComponent(CdpAsOf *asof, const CdpIdentifier *raw,
								 CdpEntry ***entries, int *n);
/* The node of a canonical identifier. */
extern CdpNode *CdpAsOfNode(CdpAsOf *asof, CdpIdentifier *canonical, CdpKind *kind);
/* Which of the entries that were collected count, latest first; they link nodes. */
extern CdpEntry **CdpAsOfCounting(CdpAsOf *asof, int *n);
extern int64 CdpAsOfNumber(CdpNode *root);
extern CdpIdentifier *CdpAsOfIdentifierOf(int64 profile_id);

/* asof_profile.c */
extern void CdpAsOfProfile(CdpAsOf *asof, CdpNode *root, CdpEntry **entries, int n,
						   CdpTraitSet *traits, CdpProfileNodes *out);
/* Which of the entries do not count by the policies of kinds. */
extern void CdpAsOfJudge(CdpAsOf *asof, CdpEntry **entries, int n);
/* The profile that the component was, as if its nodes had no entries. */
extern void CdpAsOfOpen(CdpNode *root, CdpTraitSet *traits, CdpProfileNodes *out);
/* The same entries with all columns, in the same order. */
extern CdpEntry *CdpAsOfReadWhole(CdpAsOf *asof, CdpEntry **entries, int n);
/* Into the states of their owners. */
extern void CdpAsOfFold(CdpTraitSet *traits, CdpEntry *whole, int n);
/* Rows that are read whole, and folded, together. */
#define CDP_ASOF_CHUNK	10000

/* asof_entries.c: collect the entries of the clusters around nodes. */
extern void CdpAsOfCollect(CdpAsOf *asof, CdpNode **starts, int n);
/*
 * The entries that name nobody but these accounts, those that do not count now
 * and name one of these (by hash), and the clusters of whom they name.
 */
extern void CdpAsOfCollectNaming(CdpAsOf *asof, const int64 *accounts, int naccounts,
								 const int64 *hashes, int nhashes);
extern void CdpAsOfTakeEntry(CdpAsOf *asof, CdpEntry *entry, bool proven);
extern bool CdpAsOfKnows(CdpAsOf *asof, const CdpNode *node);
extern HTAB *CdpAsOfTable(const char *name, Size keysize, Size entrysize);

#endif							/* CDP_ASOF_H */
