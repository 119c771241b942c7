/*-------------------------------------------------------------------------
 *
 * attach.h
 *	  Private to collect/: tables that are sources of entries.
 *
 * IDENTIFICATION
 *	  src/collect/attach.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_ATTACH_H
#define CDP_ATTACH_H

#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "cdp.h"
#include "collect/collect.h"
#include "statement.h"

/*
 * How a row becomes an entry.  The strings are SQL expressions over the row,
 * which is called r; NULL where the mapping says nothing.
 */
typedef struct CdpMapping
{
	const char *type;
	List *kinds; /* char *, kind of each of ... */
	List *values; /* ... char *, its value */
	const char *event;
	const char *properties;
	const char *time;
	const char *key; /* yields text; NULL: the primary key */
	const char *filter;
	const char *cursor; /* grows with each change of a row */
	const char *overlap; /* interval by which a row may come late */
} CdpMapping;

/*
 * A row of cdp.attachments.
 */
typedef struct CdpAttachment
{
	char name[NAMEDATALEN]; /* hash key */
	int32 id;
	int64 version; /* of the definition below */
	MemoryContext context; /* holds what follows */
	char *relation; /* as SQL writes it */
	char *owner; /* of the relation, when it was attached */
	text *source;
	Oid role; /* who attached it, and reads it; invalid when gone */
	bool copy; /* payloads are copied into the log */
	CdpMapping *mapping;

	/* triggers of triggers that captured its rows, in the transaction */
	TransactionId nested_xid;
	int nested_depth;
} CdpAttachment;

/* Columns that the query of a mapping yields. */
typedef enum CdpMappedColumn
{
	CDP_MAPPED_KEY = 0, /* text */
	CDP_MAPPED_VALUES, /* text[], one for each of kinds */
	CDP_MAPPED_EVENT, /* text */
	CDP_MAPPED_PROPERTIES, /* jsonb */
	CDP_MAPPED_TIME, /* timestamptz, NULL when not mapped */
	CDP_MAPPED_NATTS
} CdpMappedColumn;

/* collect/mapping.c */
extern CdpMapping *CdpMappingParse(Jsonb *json, bool check_kinds);
/* Errors that each row of a relation would raise, read by the role, are raised; within SPI. */
extern void CdpMappingTry(const CdpMapping *mapping, Oid relid, Oid role);
/* The key of a relation without a key in its mapping: its primary key. */
extern const char *CdpMappingPrimaryKey(Oid relid, bool missing_ok);
/* The query that maps the rows of a FROM item (which may refer to $1). */
extern char *CdpMappingQuery(const CdpMapping *mapping, const char *key,
							 const char *from, const char *condition);
/*
 * Add to a condition that a column of the primary key of k is equal to a value
 * of its type, whatever the search_path; false when nothing says so.
 */
extern bool CdpMappingSameKey(StringInfo buf, Oid relid, Oid index, AttrNumber column,
							  const char *value);
/*
 * A FROM item: the rows of a relation as they are now whose primary key one of
 * the sources (FROM items without alias; the second may be NULL) has.
 */
extern char *CdpMappingCurrentRows(Oid relid, const char *relation,
								   const char *source, const char *other);
/* The query for the keys of a FROM item, whatever the filter says, or with it. */
extern char *CdpMappingKeyQuery(const CdpMapping *mapping, const char *key,
								const char *from, bool filtered);

/* collect/attachment.c */
extern CdpAttachment *CdpAttachmentGet(const char *name, bool missing_ok);
/* Invalid when there is none of that name. */
extern Oid CdpAttachedRelation(const CdpAttachment *attachment);
extern bool CdpOwnedAsAttached(const CdpAttachment *attachment, Oid relid);
extern bool CdpIsAttached(Relation rel, Oid attached);
/* Be the one who attached the table; CdpRestoreUser undoes it. */
extern void CdpBecomeRole(Oid role, CdpUserContext *saved);
/* CdpRun, by the latest snapshot. */
extern uint64 CdpRunLatest(CdpStatement *statement, Datum *args);

/* collect/capture.c */

/*
 * The rows of one change: read and mapped as the one who attached the table,
 * then written to the log as the owner of the extension.  Within SPI.
 */
typedef struct CdpCapture
{
	CdpAttachment *attachment;
	Tuplestorestate *rows; /* what they are now */
	Tuplestorestate *gone; /* keys of those that are not there any more */
	int64 nrows;
	int64 ngone;
	int64 logged; /* entries appended, retractions aside */
	int64 retracted;
	int64 rejected;
	bool latest; /* rows as they are now, whatever the transaction sees */
	bool once; /* the query is not asked again: its plan is not kept */
	bool unattended; /* whoever writes is not told that rows cannot be read: cdp.rejected is */
	bool doubles; /* rows may have the key of another one */
	bool whole; /* payloads, whether the attachment copies them or not */
	bool anew; /* log rows that say what they said, too */
	Snapshot moment; /* rows as this sees them */
	List *refused; /* private to capture.c: what could not be mapped */
} CdpCapture;

extern void CdpCaptureBegin(CdpCapture *capture, CdpAttachment *attachment);
/* Map the rows of a FROM item whose rows are those of the relation relid. */
extern void CdpCaptureRows(CdpCapture *capture, Oid relid, const char *key,
						   const char *from, const char *condition);
/*
 * The same, and an error that says something of the rows or the mapping is
 * returned, as its SQLSTATE, and no row kept.  The FROM item may have
 * arguments, which are arrays of texts.
 */
extern int CdpCaptureTry(CdpCapture *capture, Oid relid, const char *key,
						 const char *from, const char *condition, Datum *keys, int nkeys);
/* The rows whose keys a query yields are gone. */
extern void CdpCaptureKeys(CdpCapture *capture, Oid relid, const char *query);
/* After TRUNCATE: whatever is not in the table is. */
extern void CdpCaptureTruncate(CdpCapture *capture, Oid relid, const char *key);
/* Does an error say something of rows or mapping, and not of the machine or of others? */
extern bool CdpCaptureTolerates(const ErrorData *error);
/* What could not be mapped; context: where the error is kept. */
extern void CdpCaptureRefuse(CdpCapture *capture, MemoryContext context, ErrorData *error, Jsonb *row);
extern void CdpCaptureWrite(CdpCapture *capture, bool everything);
/* Give SQL the rows, as a relation with columns key, hash, properties, … */
#define CDP_ROWS_NAME "cdp_rows"
extern void CdpCaptureRegister(CdpCapture *capture);
extern void CdpCaptureUnregister(void);
/* What cdp.attached_rows has as the key of a row: a bytea. */
extern Datum CdpAttachedKey(text *key);
extern void CdpCaptureEnd(CdpCapture *capture);

/* collect/attach.c */

/*
 * An attachment whose definition is locked and whose relation was found.
 */
typedef struct CdpOpenAttachment
{
	CdpAttachment *attachment;
	Oid relid;
	bool triggers; /* captured by them, not polled */
	bool complete; /* ... and none of them is missing */
	bool started; /* the cursor has been followed ... */
	TimestampTz position; /* ... up to here */
} CdpOpenAttachment;

/*
 * Lock a table against writing.  Under a lock_timeout this waits without being
 * in the way of others, who would queue up behind it, but for the last moment.
 */
extern void CdpLockBeside(Oid relid, LOCKMODE mode);
extern void CdpAttachmentOpen(CdpOpenAttachment *open, CdpAttachment *attachment);
extern void CdpAttachmentMove(CdpOpenAttachment *open, TimestampTz position);
extern void CdpAttachmentSync(CdpCapture *capture, CdpOpenAttachment *open);

/* collect/reference.c */

/* Bytes of a reference, at most. */
#define CDP_MAX_REFERENCE 2048
extern Jsonb *CdpReferenceMake(text *key);

/* collect/load.c */
extern bool CdpLoadIsLarge(CdpAttachment *attachment);
extern void CdpLoadBegin(CdpAttachment *attachment, Oid relid);
/* All rows are in the log, or nobody wants them any more; within SPI. */
extern void CdpLoadEnd(CdpAttachment *attachment);

#endif /* CDP_ATTACH_H */
