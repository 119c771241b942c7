/*-------------------------------------------------------------------------
 *
 * traitset.h
 *	  Compiled definitions: what the header that other stations see keeps
 *	  private.
 *
 * IDENTIFICATION
 *	  src/traits/traitset.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_TRAITSET_H
#define CDP_TRAITSET_H

#include "pgtime.h"
#include "traits/state.h"

/* Columns of cdp.trait_definitions, in order. */
typedef enum CdpDefinitionColumn
{
	CDP_DEF_ID = 0,
	CDP_DEF_NAME,
	CDP_DEF_HIDDEN,
	CDP_DEF_IMPLICIT,
	CDP_DEF_AGGREGATE,
	CDP_DEF_KEY,
	CDP_DEF_VALUE,
	CDP_DEF_EVENT,
	CDP_DEF_FILTER,
	CDP_DEF_WITHIN,
	CDP_DEF_EXPRESSION,
	CDP_DEF_TYPE,
	CDP_DEF_ENTITY,
	CDP_DEF_EMPTY,
	CDP_DEF_TIMEZONE,
	CDP_DEF_DESCRIPTION,
	CDP_DEF_OPTIONS,
	CDP_DEF_OWNER,
	CDP_DEF_VALUE_SQL,
	CDP_DEF_FILTER_SQL,
	CDP_DEF_EACH,
	CDP_DEF_OLDER_THAN,
	CDP_DEF_SINCE,
	CDP_DEF_NATTS
} CdpDefinitionColumn;

/* A row of it. */
typedef struct CdpDefinition
{
	int32		id;
	char	   *name;
	bool		hidden;
	bool		implicit;
	CdpAggregate aggregate;
	char	   *key;
	char	   *value;
	char	   *event;
	char	   *filter;
	Interval   *within;
	char	   *expression;
	char	   *type;
	char	   *entity;
	char	   *empty;
	char	   *timezone;
	char	   *description;
	Jsonb	   *options;
	char	   *owner;
	char	   *value_sql;
	char	   *filter_sql;
	char	   *each;
	Interval   *older_than;
	bool		has_since;
	TimestampTz since;
} CdpDefinition;

/* An expression that traits share; evaluated once an entry. */
typedef struct CdpSharedExpr
{
	Expr	   *expr;
	int			group;
	ExprState  *state;
	int64		stamp;			/* of the entry that it was last evaluated for */
	Datum		value;
	bool		isnull;
	int64		copied;			/* stamp for which copy is set */
	Datum		copy;			/* value in the caller's context */
} CdpSharedExpr;

/* Traits evaluated under the same user and settings. */
typedef struct CdpEvalGroup
{
	Oid			owner;
	char	   *timezone;		/* NULL: depends on no setting */
	bool		can_fail;		/* has any expression */
	Bitmapset  *traits;			/* indexes */
} CdpEvalGroup;

typedef struct CdpTraitRules
{
	CdpDefinition *definition;
	bool		suspended;		/* owner is gone or it does not compile: folds nothing, is NULL */
	char	   *why;			/* it is suspended */
	bool		compiling;		/* on the path of derived traits being compiled */
	bool		compiled;
	Oid			owner;
	int			group;
	CdpStateRules state;		/* of computed ones */
	CdpSharedExpr *filter;
	CdpSharedExpr *value;
	CdpSharedExpr *each;
	struct CdpPurpose *purpose; /* of consent */
	TimestampTz since;			/* entries before it do not count */
	bool		limited;		/* long values do not count */
	int64		nulls;			/* values that were NULL, since the last report */
	bool		utc;			/* time zone without changes */
	pg_tz	   *tz;				/* of the window */
	bool		has_empty;
	Datum		empty;
	/* declared */
	FmgrInfo	input;
	Oid			typioparam;
	int32		typmod;
	/* derived */
	Expr	   *expr;
	ExprState  *exprstate;
	bool		pinned;			/* evaluate under pinned settings */
	bool		safe;			/* cannot raise an error */
} CdpTraitRules;

/* Traits that look at entries of one event name. */
typedef struct CdpEventTraits
{
	uint32		hash;
	const char *event;			/* NULL: free slot */
	int			eventlen;
	int			ntraits;
	int		   *traits;			/* indexes, those for any event included */
} CdpEventTraits;

typedef struct CdpTraitIndex
{
	/* by event, open addressing */
	uint32		mask;
	CdpEventTraits *events;
	CdpEventTraits any;			/* for events that no trait names */
	CdpEventTraits calls;		/* those that look at identify calls */
	CdpEventTraits namings;		/* those that look at entries which name an account */
	CdpEventTraits consents;	/* those that look at entries which say something about consent */
	Bitmapset  *suspended;		/* indexes of those that follow from entries, also by way of members */
	int			ngroups;
	CdpEvalGroup *groups;
	List	   *shared;			/* CdpSharedExpr */
	TupleDesc	entrydesc;
	TupleTableSlot *entryslot;
	TupleTableSlot *itemslot;	/* an element of an array */
	ExprContext *econtext;
	int64		stamp;			/* last one given out */
	Datum		values[CDP_EVENTS_NATTS];	/* of an entry whose properties are not those of the log */
	/* traits whose evaluation may fail: declared, then derived in order of dependency */
	int			nfallible;		/* typed declared ones first */
	int		   *fallible;
	TupleTableSlot *valueslot;
} CdpTraitIndex;

/* compile.c */
extern bool CdpCannotFail(Expr *expr);

/* traitset.c */
extern TimestampTz CdpReadInstant(TimestampTz applied);
extern CdpTraitSet *CdpTraitSetReload(const List *strict_ids);
extern CdpTraitSet *CdpTraitSetReloadOf(bool accounts, const List *strict_ids);
extern CdpTraitSet *CdpTraitSetFresh(void);
extern CdpTrait *CdpTraitByHiddenName(CdpTraitSet *set, const char *name);
extern bool CdpOfAccounts(const CdpDefinition *definition);
extern void CdpDefinitionFromRow(CdpDefinition *definition, Datum *values, bool *isnull);
extern Oid	CdpTypeFromName(const char *name, int32 *typmod);
extern Expr *CdpCompileValue(CdpDefinition *definition, CdpStateRules *rules, char **canonical);
extern Expr *CdpCompileFilter(CdpDefinition *definition, char **canonical);
extern Expr *CdpCompileEach(CdpDefinition *definition);
extern bool CdpDefinitionWindowed(const CdpDefinition *definition);
extern Expr *CdpCompileDerived(CdpDefinition *definition, CdpColumnResolver resolver, void *arg);
extern Bitmapset *CdpExpressionDepends(Expr *expr);

/* expression.c */
extern bool CdpHasClockWord(const char *value);

/* Longest name of a trait. */
#define CDP_MAX_NAME		51

/* definition.c */
extern void CdpCheckTimezone(const char *timezone);
extern void CdpCheckWithin(const char *argument, const Interval *within);
extern List *CdpDefinitionPrepare(CdpDefinition *definition);

/* A derived trait that is being defined, for … */
typedef struct CdpNewDerived
{
	CdpTraitSet *set;
	const char *name;
	bool		hidden;
} CdpNewDerived;

/* … its columns. */
extern Node *CdpNewDerivedColumn(void *arg, const char *name, int location);
/* The trait that may be meant by this name; NULL: none is near. */
extern const char *CdpNewDerivedNearest(void *arg, const char *name);

/* definition.c: as create_trait and alter_trait do */
extern void CdpDefinitionCreate(CdpDefinition *definition);
extern void CdpDefinitionAlter(CdpDefinition *old, CdpDefinition *definition);

/* version.c */
extern bool CdpBackfillIsFresh(int32 trait_id);

/* definition_store.c */
/* entity: NULL for any, that of profiles first */
extern CdpDefinition *CdpDefinitionRead(const char *name, const char *entity);
extern CdpDefinition *CdpDefinitionReadId(int32 id);
extern int32 CdpDefinitionWrite(CdpDefinition *definition, int32 old_id);
extern List *CdpDefinitionIds(const char *query, int32 id);
extern List *CdpDefinitionDependants(int32 id);
extern bool CdpSameText(const char *a, const char *b);
extern Jsonb *CdpCommonOptions(const Jsonb *options);
extern Jsonb *CdpLastingOptions(const Jsonb *options);
extern bool CdpDefinitionSame(const CdpDefinition *a, const CdpDefinition *b);

/* fold.c */
extern void CdpWindow(const CdpTraitRules *rules, TimestampTz at,
					  TimestampTz *begin, TimestampTz *end);

/* consent.c */
extern struct CdpPurpose *CdpPurposeMake(const CdpDefinition *definition);
extern bool CdpEntryConsents(const CdpEntry *entry);
extern Jsonb *CdpConsentPreferences(const CdpEntry *entry);
extern int	CdpConsentItems(const struct CdpPurpose *purpose, int64 generation,
							const CdpEntry *entry, Datum **items);

/* errors.c */
extern void CdpTraitErrorCount(int32 trait_id, int64 entry, const char *message);
extern void CdpTraitNullsCount(int32 trait_id, int64 n);
extern void CdpTraitsMissedNote(int32 *ids, int n);
extern bool CdpSwallowError(ErrorData *edata);
extern void CdpDeclaredKeysNote(CdpTraitSet *set, const CdpEntry *entry);
extern void CdpDeclaredKeysFlush(void);

/* view.c */
extern void CdpTraitsView(CdpTraitSet *set, const char *renamed_from, const char *renamed_to);

/* account.c: traits of accounts over their members' traits */
extern bool CdpOverMembers(const CdpDefinition *definition);
extern void CdpPrepareOverMembers(CdpDefinition *definition);
extern void CdpMemberTraitDepends(const CdpDefinition *definition, int32 old_id, int32 id);
extern void CdpMemberTraitRename(int32 hidden_id, const char *from, const char *to);
extern int32 CdpMemberTrait(const CdpDefinition *definition);
/* What such a trait stands on, and what is said of it where it is wrong. */
extern bool CdpIsMemberExpression(const CdpDefinition *definition);
extern char *CdpMemberPart(const char *text, int *position);
extern const char CdpMemberExpression[];

#endif							/* CDP_TRAITSET_H */
