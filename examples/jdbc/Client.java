import java.io.StringReader;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.Arrays;
import org.postgresql.PGConnection;

/**
 * A client of cdp with JDBC: calls, batches of rows with typed arrays of
 * cdp.identifier, COPY, and such an array back.
 *
 *   java -cp postgresql-42.7.7.jar Client.java 'jdbc:postgresql://localhost/db?user=me'
 *
 * Works through a pooler in transaction mode, too, with prepareThreshold=0.
 */
public class Client {
    public static void main(String[] args) throws Exception {
        try (Connection conn = DriverManager.getConnection(args[0])) {
            // calls: after five executions the driver prepares the statement on the server
            try (PreparedStatement track = conn.prepareStatement(
                    "SELECT cdp.track(?, ?::jsonb, user_id => ?, message_id => ?, source => 'jdbc')")) {
                for (int i = 0; i < 10; i++) {
                    track.setString(1, "Order Completed");
                    track.setString(2, "{\"revenue\": 10}");
                    track.setString(3, "jdbc-1");
                    track.setString(4, "jdbc-" + i);
                    track.execute();
                }
            }

            // rows with a typed array, in batches
            try (PreparedStatement insert = conn.prepareStatement(
                    "INSERT INTO cdp.events (message_id, source, event, identifiers, properties) VALUES (?, 'jdbc', 'Viewed', ?, ?::jsonb)")) {
                for (int i = 0; i < 100; i++) {
                    Array identifiers = conn.createArrayOf("cdp.identifier",
                            new Object[] {"user_id:jdbc-" + i % 10, "anonymous_id:jdbc-device-" + i % 10});
                    insert.setString(1, "jdbc-row-" + i);
                    insert.setArray(2, identifiers);
                    insert.setString(3, "{\"n\": " + i + "}");
                    insert.addBatch();
                }
                insert.executeBatch();
            }

            // bulk: COPY
            StringBuilder lines = new StringBuilder();
            for (int i = 0; i < 1000; i++) {
                lines.append("jdbc-copy-").append(i).append(",jdbc,Viewed,{user_id:jdbc-").append(i % 10).append("}\n");
            }
            long copied = conn.unwrap(PGConnection.class).getCopyAPI().copyIn(
                    "COPY cdp.events (message_id, source, event, identifiers) FROM STDIN (FORMAT csv)",
                    new StringReader(lines.toString()));

            try (PreparedStatement wait = conn.prepareStatement("SELECT cdp.wait_applied('30 s')");
                    ResultSet r = wait.executeQuery()) {
                r.next();
                System.out.print("copied " + copied + " applied " + r.getBoolean(1) + " ");
            }
            try (PreparedStatement who = conn.prepareStatement(
                    "SELECT array_agg(identifier ORDER BY identifier) FROM cdp.identities WHERE profile_id = cdp.resolve(?::cdp.identifier)")) {
                who.setString(1, "user_id:jdbc-1");
                try (ResultSet r = who.executeQuery()) {
                    r.next();
                    System.out.println(Arrays.toString((Object[]) r.getArray(1).getArray()));
                }
            }
        }
    }
}
